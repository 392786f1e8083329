"""The Streamlit app: one script per page."""
