"""The official archives: where they are, what they must contain (by SHA-256), and how to read them.

SHA-256 and file names are those of TensorFlow Datasets, https://github.com/tensorflow/datasets, in
tensorflow_datasets/url_checksums/{mnist,fashion_mnist,cifar10,cifar100}.txt. The same values stand in MLDatasets.jl
(CIFAR) and torchvision's prototype datasets (MNIST, Fashion-MNIST).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sonet.data.pixels import Pixels
from sonet.data.readers import read_cifar, read_idx_four


@dataclass(frozen=True)
class Archive:
    """One file to have: its name and the SHA-256 of its bytes, in hex."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Source:
    """One dataset's archives. Each mirror is a URL to which a file's name is appended; they are tried in order.

    read: from the archives' paths, in order, to (train, test).
    """

    title: str
    archives: tuple[Archive, ...]
    mirrors: tuple[str, ...]
    classes: tuple[str, ...]
    read: Callable[[Sequence[Path]], tuple[Pixels, Pixels]]


# fmt: off
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)
_CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)
# fmt: on

SOURCES: dict[str, Source] = {
    "mnist": Source(
        title="MNIST (LeCun, Cortes, Burges), official IDX archives",
        archives=(
            Archive("train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            Archive("train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            Archive("t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            Archive("t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        classes=tuple(str(digit) for digit in range(10)),
        read=read_idx_four,
    ),
    "fashion-mnist": Source(
        title="Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), official IDX archives",
        archives=(
            Archive("train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            Archive("train-labels-idx1-ubyte.gz", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            Archive("t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            Archive("t10k-labels-idx1-ubyte.gz", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        ),
        # The authors' bucket has no certificate of its own, hence http; the checksum decides what is accepted.
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        classes=_FASHION,
        read=read_idx_four,
    ),
    "cifar10": Source(
        title="CIFAR-10 (Krizhevsky 2009), official binary archive",
        archives=(
            Archive("cifar-10-binary.tar.gz", "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
        ),
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        read=partial(
            read_cifar,
            train=tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)),
            test=("cifar-10-batches-bin/test_batch.bin",),
            label_bytes=1,
        ),
    ),
    "cifar100": Source(
        title="CIFAR-100 (Krizhevsky 2009), fine labels, official binary archive",
        archives=(
            Archive("cifar-100-binary.tar.gz", "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"),
        ),
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        classes=_CIFAR100,
        read=partial(
            read_cifar, train=("cifar-100-binary/train.bin",), test=("cifar-100-binary/test.bin",), label_bytes=2
        ),
    ),
}
