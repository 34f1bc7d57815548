"""What tests of several subjects share: a module for each, and no test imports from a test."""
