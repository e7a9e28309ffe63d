"""Preprocessing in parts: settings, workers, growing files, marks from which a killed run goes on."""
