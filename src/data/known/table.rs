//! The table of known data sets.

use super::{Archive, Identity, Known, KnownFile, Packing};
use crate::data::Format;

const fn id(len: u64, sha256: &'static str) -> Identity {
    Identity { len, sha256 }
}

const fn file(name: &'static str, len: u64, sha256: &'static str) -> KnownFile {
    KnownFile { name, id: id(len, sha256) }
}

const fn archive(name: &'static str, packing: Packing, len: u64, sha256: &'static str) -> Archive {
    Archive { name, packing, id: id(len, sha256) }
}

/// All data sets that have a name.
pub const DATASETS: &[Known] = &[
    Known {
        name: "fashion-mnist",
        about: "70,000 grey 28x28 images of clothes in 10 classes (Xiao, Rasul and Vollgraf, 2017)",
        folder: "fashion-mnist",
        format: Format::Idx,
        class_names: FASHION,
        coarse_names: &[],
        mean: [0.2860, 0.0, 0.0, 0.0],
        std: [0.3530, 1.0, 1.0, 1.0],
        files: &[
            file(
                "train-images-idx3-ubyte",
                47_040_016,
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            file("train-labels-idx1-ubyte", 60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
            file(
                "t10k-images-idx3-ubyte",
                7_840_016,
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            file("t10k-labels-idx1-ubyte", 10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
        ],
        // The authors' repository, Keras's mirror, the authors' bucket. The bucket has no certificate of its own name, so
        // there is no https; the SHA-256 guards what comes.
        urls: &[
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ],
        archives: &[
            archive(
                "train-images-idx3-ubyte.gz",
                Packing::Gz,
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            archive(
                "train-labels-idx1-ubyte.gz",
                Packing::Gz,
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            archive(
                "t10k-images-idx3-ubyte.gz",
                Packing::Gz,
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            archive(
                "t10k-labels-idx1-ubyte.gz",
                Packing::Gz,
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ],
    },
    Known {
        name: "cifar-10",
        about: "60,000 colour 32x32 images of things and animals in 10 classes (Krizhevsky, 2009)",
        folder: "cifar-10-batches-bin",
        format: Format::Cifar10,
        class_names: CIFAR10,
        coarse_names: &[],
        mean: [0.4914, 0.4822, 0.4465, 0.0],
        std: [0.2470, 0.2435, 0.2616, 1.0],
        files: &[
            file("data_batch_1.bin", BATCH, "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
            file("data_batch_2.bin", BATCH, "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
            file("data_batch_3.bin", BATCH, "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
            file("data_batch_4.bin", BATCH, "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
            file("data_batch_5.bin", BATCH, "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
            file("test_batch.bin", BATCH, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
        ],
        urls: &["https://www.cs.toronto.edu/~kriz/"],
        archives: &[archive(
            "cifar-10-binary.tar.gz",
            Packing::TarGz,
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        )],
    },
    Known {
        name: "cifar-100",
        about: "60,000 colour 32x32 images in 100 classes, grouped in 20 (Krizhevsky, 2009)",
        folder: "cifar-100-binary",
        format: Format::Cifar100,
        class_names: CIFAR100,
        coarse_names: CIFAR100_COARSE,
        mean: [0.5071, 0.4865, 0.4409, 0.0],
        std: [0.2673, 0.2564, 0.2762, 1.0],
        files: &[
            file("train.bin", 153_700_000, "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
            file("test.bin", 30_740_000, "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
        ],
        urls: &["https://www.cs.toronto.edu/~kriz/"],
        archives: &[archive(
            "cifar-100-binary.tar.gz",
            Packing::TarGz,
            168_513_733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        )],
    },
];

/// Bytes of one of CIFAR-10's files: 10,000 rows.
const BATCH: u64 = 30_730_000;

const FASHION: &[&str] =
    &["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

const CIFAR10: &[&str] = &["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

#[rustfmt::skip]
const CIFAR100: &[&str] = &[
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
];

#[rustfmt::skip]
const CIFAR100_COARSE: &[&str] = &[
    "aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables", "household_electrical_devices",
    "household_furniture", "insects", "large_carnivores", "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes", "large_omnivores_and_herbivores", "medium_mammals", "non-insect_invertebrates",
    "people", "reptiles", "small_mammals", "trees", "vehicles_1", "vehicles_2",
];
