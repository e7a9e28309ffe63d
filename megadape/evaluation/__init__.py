"""Length extrapolation, heads, figures."""
