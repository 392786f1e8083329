"""The Streamlit app: one file per page."""
