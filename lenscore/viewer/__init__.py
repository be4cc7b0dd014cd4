"""The static viewer: pages that show, for every patch of an image, the words of each lens at each layer."""
