"""MetaICL-style tasks of the public data: the format of MetaICL's files, other tasks."""

from hypert5_jax.preparation.locations import data_folder
from tasks.metaicl import register

_FOLDER = data_folder() / "metaicl_style"

register("slices_metaicl_train", ("ag_news", "cb", "trec"), folder=_FOLDER, k=16)
register("slices_metaicl_test", ("rte", "sst2"), test=True, folder=_FOLDER, k=16)
