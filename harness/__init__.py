"""Turns a plan into scored, stored facts; knows no benchmark by name."""
