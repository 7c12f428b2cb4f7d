"""Images and labels: named datasets, .npz arrays and folders of images, all as float32 tensors in [0, 1].

    data = load("digits")                 # or "cifar10", "arrays.npz", "folder/of/images"
    for images, labels in data.test.batches(100):
        ...

Nothing is read or downloaded at import. Archives are checked by SHA-256 and read in memory; nothing is unpickled.
"""

from sonet.data.augment import crop_and_flip
from sonet.data.dataset import Dataset, Split
from sonet.data.errors import DataError
from sonet.data.identity import IDENTITY, differing
from sonet.data.load import DATASETS, load

__all__ = ["DATASETS", "IDENTITY", "DataError", "Dataset", "Split", "crop_and_flip", "differing", "load"]
