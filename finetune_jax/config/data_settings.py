"""Settings of the data: which images, how they are prepared, and how they reach the device."""

from dataclasses import dataclass

from finetune_jax.config import ranges
from finetune_jax.config.choices import AUGMENTATIONS, CROPPING, PROTOCOLS, RESIZE_MODES, TASKS
from finetune_jax.config.declaration import setting
from finetune_jax.config.groups import DATA, IMAGES, MACHINE, RETRIEVAL
from finetune_jax.config.spelling import data_set


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they reach the device."""

    dataset: str = setting(
        "digits",
        "Data set: digits, folder:PATH for a folder of class folders, csv:FILE for a table of images and labels, "
        "tfds:NAME[:CONFIG], hf:NAME or hf:FOLDER of the library datasets, webdataset:PATH for tar shards, or "
        "arrayrecord:PATH; the path of an existing folder or table is taken for folder:PATH or csv:FILE.",
        group=DATA,
        important=1,
        spelling=data_set,
        aliases=(
            "data",
            "data_path",
            "data_root",
            "train_dir",
            "train_data",
            "train_folder",
            "folder",
            "images",
        ),
    )
    columns: tuple[str, ...] = setting(
        (),
        "Columns of a table by their roles, e.g. image=filename,label=species,split=fold; what is left out is "
        "guessed by the columns' names. Several label columns, one by one or as label=PREFIX*, are for "
        "--task=multilabel or regression. weight=COLUMN multiplies the loss of each training image. "
        "Of tfds:, hf:, webdataset: and arrayrecord: data sets, names of their fields: image=NAME,label=NAME.",
        group=DATA,
    )
    label_delimiter: str = setting(
        "",
        "What stands between the labels of an image in a table or record, for --task=multilabel; empty is | or ; where "
        "labels have one of them between parts that come again.",
        group=DATA,
        only_with={"task": ("auto", "multilabel")},
    )
    image_root: str = setting(
        "", "Folder that a table's image paths count from; empty is the folder of the table.", group=DATA
    )
    group_by: str = setting(
        "",
        "Column of a table whose equal values never lie in two splits, such as a patient; folder takes the folder of "
        "each image.",
        group=DATA,
    )
    images_per_class: int = setting(
        0,
        "At most this many training images of each class; 0 takes all.",
        group=DATA,
        range=ranges.NOT_NEGATIVE,
    )
    task: str = setting(
        "auto",
        "What is learned: classification gives an image one class, multilabel any number of classes, ordinal one of "
        "ordered grades, regression numbers; retrieval finds images of the same class. auto is told by --protocol, "
        "--loss and the labels, and is said in the first lines.",
        TASKS,
        group=DATA,
        aliases=("problem_type", "classification_task", "task_type", "objective"),
    )
    protocol: str = setting(
        "classification",
        "What is measured: classification what the network says of an image, retrieval whether it finds images of the "
        "same class. Without class splits of the data set, retrieval trains on the first half of the classes and "
        "tests on the second.",
        PROTOCOLS,
        group=DATA,
    )
    ks: tuple[int, ...] = setting(
        (1, 2, 4, 8),
        "Numbers K for which --protocol=retrieval reports Recall@K.",
        group=RETRIEVAL,
        range=ranges.COUNTS,
        only_with={"protocol": ("retrieval",)},
    )
    data_dir: str = setting(
        "",
        "Folder of prepared TFDS data sets; empty is TFDS's default.",
        group=DATA,
        local=True,
        reading=True,
    )
    validation_fraction: float = setting(
        0.1,
        "Share of the training images held out for validation where the data set has no validation split.",
        group=DATA,
        range=ranges.SHARE_OR_ZERO,
        reading=True,
        aliases=("val_split", "val_fraction", "val_size", "valid_pct", "validation_split", "train_val_split"),
    )
    test_fraction: float = setting(
        0.2,
        "Share of the training images held out for testing where the data set has no test split.",
        group=DATA,
        range=ranges.SHARE,
        reading=True,
        aliases=("test_split", "test_size"),
    )
    train_on_validation: bool = setting(
        False,
        "Train also on the validation split that the data set brings, as some papers do.",
        group=DATA,
        aliases=("trainval",),
    )
    split_seed: int = setting(
        0,
        "Seed of the validation and test splits that are drawn.",
        group=DATA,
        range=ranges.NOT_NEGATIVE,
        reading=True,
    )
    folds: int = setting(
        0,
        "Number of parts of the training images, one of which is the test split (folds trains with each); 0 "
        "makes none.",
        group=DATA,
        range=ranges.NOT_NEGATIVE,
        only_with={"protocol": ("classification",)},
        aliases=("cv", "n_splits", "k_folds", "kfold"),
    )
    fold: int = setting(1, "Which of the --folds is the test split, from 1.", group=DATA, range=ranges.COUNT)
    image_size: int = setting(
        0,
        "Height and width in pixels of the images that the network sees; 0 is the size of the pretrained network, "
        "32 with the bundled one and for digits.",
        group=IMAGES,
        important=5,
        range=ranges.NOT_NEGATIVE,
        reading=True,
        aliases=("imgsz", "img_size", "input_size", "size", "resolution", "crop_size"),
    )
    test_resize: int = setting(
        0,
        "Side to which validation and test images are resized before their centre of --image_size is cut out; "
        "0 is 8/7 of it (256 for 224), no crop for digits, and --stored_size with --augmentation=crop.",
        group=IMAGES,
        range=ranges.NOT_NEGATIVE,
    )
    augmentation: str = setting(
        "auto",
        "Random changes of the training images, made on the device in every step; auto is flip, and none for "
        "digits. crop takes --image_size pixels at a random place, random_crop also flips, random_resized_crop "
        "takes 8 to 100 % of the area with 3/4 to 4/3 as wide as high, flips, and changes colours; trivial_augment, "
        "rand_augment and augmix take such a crop, flip, and apply the operations of their papers.",
        AUGMENTATIONS,
        group=IMAGES,
        important=9,
        aliases=("aug", "aa", "auto_augment", "augment", "augmentations", "transforms"),
    )
    resize_mode: str = setting(
        "auto",
        "How images become squares: stretch, or shorter_side, which keeps their proportions and of which "
        "evaluation sees the centre; auto is shorter_side with --augmentation=random_crop, random_resized_crop, "
        "trivial_augment, rand_augment or augmix, else stretch.",
        RESIZE_MODES,
        group=IMAGES,
    )
    stored_size: int = setting(
        0,
        "Side of the squares as which training images are kept for an augmentation that crops; 0 is 8/7 of "
        "--image_size, and 4/3 of that where crops keep the image's proportions.",
        group=IMAGES,
        range=ranges.NOT_NEGATIVE,
        only_with={"augmentation": CROPPING},
    )
    train_resize: int = setting(
        0,
        "Shorter side to which training images are resized before a crop that keeps their proportions, and test "
        "images without --test_resize; 0 is 8/7 of --image_size.",
        group=IMAGES,
        range=ranges.NOT_NEGATIVE,
        only_with={"augmentation": ("crop", "random_crop")},
    )
    color_jitter: float = setting(
        0.4,
        "Strength of the colour changes of random_resized_crop, which multiplies brightness, contrast and "
        "saturation by 1 plus or minus up to this.",
        group=IMAGES,
        range=ranges.UP_TO_ONE,
        only_with={"augmentation": ("random_resized_crop",)},
        aliases=("jitter",),
    )
    hue_jitter: float = setting(
        0.0,
        "Largest change of the hue by random_resized_crop, as a share of the colour circle.",
        group=IMAGES,
        range=ranges.UP_TO_HALF,
        only_with={"augmentation": ("random_resized_crop",)},
    )
    bits: int = setting(
        16,
        "Bits of a grey value in 16-bit images: 2**bits - 1 is white. Most scanners and scientific cameras use 12, and "
        "their images are nearly black otherwise.",
        group=IMAGES,
        range=ranges.BITS,
        reading=True,
    )
    percentiles: tuple[int, ...] = setting(
        (),
        "Two percentiles of the values of an image with more than 8 bits that become black and white, such as 1,99, "
        "instead of --bits; each image has its own.",
        group=IMAGES,
        range=ranges.PERCENTILES,
        reading=True,
    )
    channels: int = setting(
        3,
        "Channels of the images that the network sees: 1 makes grey of colour, other numbers are those of TIFF files "
        "or arrays. The first kernel of pretrained weights is summed or repeated, as timm does it.",
        group=IMAGES,
        range=ranges.CHANNELS,
        reading=True,
        aliases=("in_chans", "in_channels", "num_channels"),
    )
    pages: str = setting(
        "first",
        "Pages of TIFF files: the first one, all as channels of one image, or each as an image of its own, which "
        "lie in one split.",
        ("first", "channels", "images"),
        group=IMAGES,
        reading=True,
    )
    max_pixels: int = setting(
        178_956_970,
        "Width times height up to which an image is read. Larger JPEGs are read at a reduced scale, other larger "
        "images are refused.",
        group=DATA,
        range=ranges.COUNT,
        reading=True,
    )
    skip_unreadable: bool = setting(
        False,
        "Leave out images that cannot be read, with a warning that counts them.",
        group=DATA,
        reading=True,
    )
    cache_dir: str = setting(
        "",
        "Folder in which decoded images are kept; empty is ~/.cache/finetune_jax.",
        group=MACHINE,
        local=True,
        reading=True,
        aliases=("cache",),
    )
    device_data_gb: float = setting(
        2.0,
        "Size in GB up to which a data set is kept in the memory of the device; a larger one is streamed.",
        group=MACHINE,
        range=ranges.NOT_NEGATIVE,
        reading=True,
    )
    data_shards: str = setting(
        "auto",
        "Shards into which the images of every split are divided: process gives every process of --coordinator one, "
        "which it alone reads, decodes and caches; a number makes so many whatever the processes, which share them "
        "evenly. A batch takes as many images of each, so results depend on the number and not on the processes. 1 "
        "is no shards; auto is process from a million images on. Files are then compared by name, size and time.",
        group=MACHINE,
        before="1",
    )
    decode: str = setting(
        "cache",
        "When images are decoded: once, into a cache on disk, or whenever a step needs them (stream), which takes no "
        "disk and no preparation for the same batches, but the processor in every epoch.",
        ("cache", "stream"),
        group=MACHINE,
        local=True,
        reading=True,
    )
    decode_workers: int = setting(
        0,
        "Number of threads that decode images; 0 is one per core.",
        group=MACHINE,
        range=ranges.NOT_NEGATIVE,
        local=True,
        reading=True,
        aliases=("workers", "num_workers", "j", "dataloader_num_workers"),
    )

    def __post_init__(self) -> None:
        # Two names for one thing, of which the second decides how data are split and what is measured.
        if self.task == "retrieval":
            object.__setattr__(self, "protocol", "retrieval")
