"""Data sets that tensorflow-datasets has prepared on this machine."""

import os

from keras_sam.experiments.data.splits import Split, Stream


def prepared(name, splits, data_dir=None, download=False):
    """The builder of a data set whose files are all there.

    Args:
        name: TFDS's name of the set.
        splits: Names of the splits that are used, such as `"train+extra"`.
        data_dir: Folder of all sets. Defaults to `None`, TFDS's own: `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
        download: Boolean, whether a missing set is downloaded and prepared. Defaults to `False`.

    Raises:
        FileNotFoundError: If the set, or a part of it, is missing.
    """
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} is read by tensorflow-datasets, but `{error.name}` is missing. Install both: "
            "pip install tensorflow-datasets importlib_resources",
            name=error.name,
        ) from error

    builder = tfds.builder(name, data_dir=data_dir)
    if download:
        builder.download_and_prepare()
    folder = builder.data_path
    if not builder.is_prepared():
        begun = sorted(path.name for path in folder.parent.glob(f"incomplete.*_{folder.name}"))
        state = f"was prepared in {folder.parent} in part alone ({begun[0]})" if begun else f"is not in {folder}"
        raise FileNotFoundError(f"{name} {state}. {_how_to(builder, data_dir)}")
    parts = {part for split in splits for part in split.split("+")}
    wrong = _incomplete(builder, sorted(parts))
    if wrong:
        raise FileNotFoundError(
            f"{name} in {folder} lacks {', '.join(wrong[:3])}{' and others' * (len(wrong) > 3)}. Delete that folder, "
            f"then: {_how_to(builder, data_dir)}"
        )
    return builder


def _incomplete(builder, parts):
    """Splits that are not there, files that are not, and splits whose files are shorter than what they hold."""
    # Other formats are compressed.
    is_as_large = builder.info.file_format.value == "tfrecord"
    wrong = [f"the split '{part}'" for part in parts if part not in builder.info.splits]
    for info in (builder.info.splits[part] for part in parts if part in builder.info.splits):
        missing = [path.name for path in info.filepaths if not path.exists()]
        size = sum(path.stat().length for path in info.filepaths if path.exists())
        is_cut_off = is_as_large and size < info.num_bytes
        wrong += missing or [f"a part of the split '{info.name}'"] * is_cut_off
    return wrong


def _how_to(builder, data_dir):
    where = f", data_dir={os.fspath(data_dir)!r}" if data_dir else ""
    command = f'python -c "import tensorflow_datasets as tfds; tfds.load({builder.name!r}{where})"'
    manual = " ".join((builder.MANUAL_DOWNLOAD_INSTRUCTIONS or "").split())
    by_hand = f" Before that, in {builder.data_path.parents[1]}/downloads/manual: {manual}" if manual else ""
    return f"To download and prepare it, give keras-sam the option --download, or: {command}{by_hand}"


def arrays(builder, split):
    """A split as a `Split` of uint8 images."""
    import tensorflow_datasets as tfds

    return Split(*tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, as_supervised=True)))


def stream(builder, split):
    """A split as a `Stream`."""
    import tensorflow_datasets as tfds

    # Still encoded: what is not used of an image is not decoded, and a buffer holds ten times as many.
    examples = builder.as_dataset(split=split, as_supervised=True, decoders={"image": tfds.decode.SkipDecoding()})
    return Stream(examples, builder.info.splits[split].num_examples)
