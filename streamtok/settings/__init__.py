"""What commands are told: the kinds of values, YAML files with the line of each key, and errors that name both."""
