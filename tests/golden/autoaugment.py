#!/usr/bin/env python3
"""What Pillow makes of real images by AutoAugment's operations: a hash for each operation, level and direction.

    python tests/golden/autoaugment.py CIFAR FASHION      # folders with CIFAR-10's binary files and Fashion-MNIST's

Strengths are those of the authors' code for CIFAR (PARAMETER_MAX 10). Pixels from outside of an image, and those that cutout
erases, have the fill colour. Writes autoaugment.bin, the images, and autoaugment.json, the hashes, beside this file.
"""
import argparse
import gzip
import hashlib
import json
import pathlib

import PIL
from PIL import Image, ImageEnhance, ImageOps

HERE = pathlib.Path(__file__).resolve().parent
# Name, mode, side, number of images, fill colour: 255 times the data set's mean, rounded.
SETS = [("cifar-10", "RGB", 32, 32, (125, 123, 114)), ("fashion-mnist", "L", 28, 16, 73)]
LEVELS = range(10)
DIRECTED = ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"]


def affine(image, matrix, fill):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=fill)


def cutout(image, size, centre, fill):
    row, column = centre
    box = [max(0, column - size // 2), max(0, row - size // 2),
           min(image.width, column + size // 2), min(image.height, row + size // 2)]
    image = image.copy()
    if size > 0:
        image.paste(fill, box)
    return image


def apply(name, image, level, sign, number, fill):
    """The image behind one operation; `number` is the image's own, which decides where cutout's square lies."""
    factor = level * 1.8 / 10 + 0.1
    match name:
        case "ShearX":
            return affine(image, (1, sign * level * 0.3 / 10, 0, 0, 1, 0), fill)
        case "ShearY":
            return affine(image, (1, 0, 0, sign * level * 0.3 / 10, 1, 0), fill)
        case "TranslateX":
            return affine(image, (1, 0, sign * level, 0, 1, 0), fill)
        case "TranslateY":
            return affine(image, (1, 0, 0, 0, 1, sign * level), fill)
        case "Rotate":
            return image.rotate(sign * int(level * 30 / 10), fillcolor=fill)
        case "AutoContrast":
            return ImageOps.autocontrast(image)
        case "Invert":
            return ImageOps.invert(image)
        case "Equalize":
            return ImageOps.equalize(image)
        case "Solarize":
            return ImageOps.solarize(image, 256 - int(level * 256 / 10))
        case "Posterize":
            return ImageOps.posterize(image, 4 - int(level * 4 / 10))
        case "Contrast":
            return ImageEnhance.Contrast(image).enhance(factor)
        case "Color":
            return ImageEnhance.Color(image).enhance(factor)
        case "Brightness":
            return ImageEnhance.Brightness(image).enhance(factor)
        case "Sharpness":
            return ImageEnhance.Sharpness(image).enhance(factor)
        case "Cutout":
            centre = (number * 7 % image.height, number * 11 % image.width)
            return cutout(image, int(level * 20 / 10), centre, fill)


NAMES = DIRECTED + ["AutoContrast", "Invert", "Equalize", "Solarize", "Posterize", "Contrast", "Color", "Brightness",
                    "Sharpness", "Cutout"]


def planes(image):
    """Bytes [c, h, w]."""
    return b"".join(band.tobytes() for band in image.split())


def read(name, folder, count, side, mode):
    if name == "cifar-10":
        rows = (folder / "data_batch_1.bin").read_bytes()
        pictures = [rows[i * 3073 + 1:(i + 1) * 3073] for i in range(count)]
    else:
        path = folder / "train-images-idx3-ubyte"
        content = path.read_bytes() if path.exists() else gzip.decompress(path.with_suffix(".gz").read_bytes())
        pictures = [content[16 + i * 784:16 + (i + 1) * 784] for i in range(count)]
    size = (side, side)
    bands = [[Image.frombytes("L", size, p[at:at + side * side]) for at in range(0, len(p), side * side)] for p in pictures]
    return [b[0] if mode == "L" else Image.merge(mode, b) for b in bands]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs=2, type=pathlib.Path)
    args = parser.parse_args()
    content, sets = b"", []
    for (name, mode, side, count, fill), folder in zip(SETS, args.folders):
        images = read(name, folder, count, side, mode)
        content += b"".join(planes(image) for image in images)
        hashes = {}
        for operation in NAMES:
            for sign in [1, -1] if operation in DIRECTED else [1]:
                for level in LEVELS:
                    made = [apply(operation, image, level, sign, i, fill) for i, image in enumerate(images)]
                    digest = hashlib.sha256(b"".join(planes(image) for image in made)).hexdigest()
                    hashes[f"{operation} {sign * level}" if level else f"{operation} {'-' if sign < 0 else ''}0"] = digest
        bands = len(mode) if mode == "RGB" else 1
        fill = list(fill) if bands == 3 else [fill]
        sets.append({"name": name, "count": count, "c": bands, "side": side, "fill": fill, "sha256": hashes})
    (HERE / "autoaugment.bin").write_bytes(content)
    notes = {"versions": {"pillow": PIL.__version__}, "sets": sets}
    (HERE / "autoaugment.json").write_text(json.dumps(notes, indent=1) + "\n")


if __name__ == "__main__":
    main()
