"""Picture of one spectrum: singular values as bars and their cumulative share as a line, in SVG."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from markupsafe import Markup

WIDTH, HEIGHT = 300, 70


def spectrum_picture(
    singular_values: Float[Tensor, " d_head"], coverage: Float[Tensor, " d_head"], label: str
) -> Markup:
    """Return the picture; it needs no script and takes the page's colors.

    Args:
        singular_values: in descending order.
        coverage: their cumulative share in percent.
        label: what a reader who does not see the picture is told.
    """
    from markupsafe import Markup

    n = len(singular_values)
    step, largest = WIDTH / n, max(float(singular_values.max()), 1e-12)
    heights = [round(HEIGHT * value / largest) for value in singular_values.tolist()]
    bars = "".join(f"v-{height}m{step:.3g} {height}" for height in heights)
    shares = [round(HEIGHT * (1 - share / 100)) for share in coverage.tolist()]
    line = " ".join(f"{(i + 0.5) * step:.0f},{share}" for i, share in enumerate(shares))
    return Markup(
        f'<svg class="spectrum" viewBox="-1 -2 {WIDTH + 2} {HEIGHT + 3}" role="img" '
        f'aria-label="{html.escape(label)}"><path class="bars" d="M{step / 2:.3g} {HEIGHT}{bars}" '
        f'stroke-width="{0.72 * step:.1f}"/><polyline class="share" points="{line}"/></svg>'
    )
