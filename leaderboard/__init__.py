"""Streamlit pages over the store; never runs a model."""
