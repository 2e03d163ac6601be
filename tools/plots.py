"""Pictures of the pages that are committed: SVG, the same bytes for the same figures."""

from types import ModuleType

from pipeline.errors import UserError, pip_install


def svg_pyplot(page: str) -> ModuleType:
    """Returns matplotlib.pyplot, set to draw the SVG of a page; UserError if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(f"the plots need matplotlib: {pip_install('-r requirements-plots.txt')}") from error
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = page  # its identifiers would be random otherwise
    from matplotlib import pyplot

    return pyplot
