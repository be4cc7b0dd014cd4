"""The static viewer: pages that show, for every patch of an image, the words of each lens at each layer."""

from lenscore.viewer.folder import write_viewer
from lenscore.viewer.image_page import single_page

__all__ = ["single_page", "write_viewer"]
