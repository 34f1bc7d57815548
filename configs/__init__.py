"""YAML files that run as they are; read with importlib.resources."""
