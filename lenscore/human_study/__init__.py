"""Human annotations: the page on which people answer, their answers on disk, and agreement with judges."""
