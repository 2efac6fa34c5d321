"""The renderer as an operator of NVIDIA DALI, for people who build their own graphs.

    import yolodata.dali

    yolodata.dali.load()  # now there is nvidia.dali.fn.yolodata.render

See docs/dali-operators.md for a whole graph.
"""

from __future__ import annotations

from yolodata.dali.operators import load
from yolodata.dali.recipes import BatchRecipes, batch_recipes

__all__ = ["BatchRecipes", "batch_recipes", "load"]
