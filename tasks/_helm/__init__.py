"""HELM's scenarios, by topic; `tasks/helm.py` lists them."""
