"""The light and dark theme as environment variables for Streamlit, so that no configuration file is written."""

from __future__ import annotations

CATEGORIES = ("#2b6f77", "#d9822b", "#7a5ea8", "#b8475b", "#4f8f4a", "#8a6d3b", "#4a76b8", "#8b8f94")
"""Distinguishable with red-green colour blindness, on light and dark backgrounds."""
CATEGORIES_DARK = ("#5fb0b5", "#e29a4f", "#a98bd6", "#dd7286", "#7cb877", "#b99a66", "#7ba3de", "#a9adb1")
"""The same colours, readable as text on the dark background."""
SEQUENTIAL = ("#eef4f3", "#d8e7e5", "#bcd8d5", "#9bc6c2", "#77b1ad", "#559a97", "#3b8283", "#2b6a6e", "#1d5258", "#123c42")
DIVERGING = ("#8c2f1b", "#b4532f", "#d47f52", "#e9b08a", "#f5dfcf", "#d6e6e6", "#9fc8c9", "#62a3a7", "#2f7c83", "#155760")

SHARED = {
    "base_font_size": "15",
    "base_radius": "6px",
    "button_radius": "6px",
    "font": "sans-serif",
    "heading_font": "sans-serif",
    "code_font": "monospace",
    "code_font_size": "0.86rem",
    "heading_font_sizes": '["1.7rem", "1.2rem", "1.05rem"]',
    "heading_font_weights": "[650, 620, 600]",
    "show_widget_border": "true",
    "chart_categorical_colors": "[" + ", ".join(f'"{colour}"' for colour in CATEGORIES) + "]",
    "chart_sequential_colors": "[" + ", ".join(f'"{colour}"' for colour in SEQUENTIAL) + "]",
    "chart_diverging_colors": "[" + ", ".join(f'"{colour}"' for colour in DIVERGING) + "]",
}
LIGHT = {
    "primary_color": "#1f6b73",
    "background_color": "#fcfbf8",
    "secondary_background_color": "#f2f0ea",
    "text_color": "#1f2528",
    "border_color": "#dcd8cd",
    "dataframe_border_color": "#e5e1d7",
    "dataframe_header_background_color": "#f2f0ea",
    "code_background_color": "#f5f3ee",
    "link_color": "#1f6b73",
}
DARK = {
    "primary_color": "#63b5b8",
    "background_color": "#14191c",
    "secondary_background_color": "#1d2428",
    "text_color": "#e4e2da",
    "border_color": "#323b40",
    "dataframe_border_color": "#2b3338",
    "dataframe_header_background_color": "#1d2428",
    "code_background_color": "#1a2024",
    "link_color": "#7cc6c8",
    "chart_categorical_colors": "[" + ", ".join(f'"{colour}"' for colour in CATEGORIES_DARK) + "]",
}


def environment() -> dict[str, str]:
    """The theme as Streamlit's environment variables."""
    found = {f"STREAMLIT_THEME_{name.upper()}": value for name, value in SHARED.items()}
    for mode, colours in (("LIGHT", LIGHT), ("DARK", DARK)):
        found.update({f"STREAMLIT_THEME_{mode}_{name.upper()}": value for name, value in colours.items()})
    return found
