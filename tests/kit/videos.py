"""Videos whose pictures say their own number, and damage done to them."""

from fractions import Fraction

import av
import numpy as np

TICKS = Fraction(1, 12800)
HARDWARE = ("nvenc", "qsv", "vaapi", "v4l2m2m", "amf", "vulkan", "videotoolbox", "_mf", "d3d12", "mediacodec")
FORMATS = ["yuv420p", "yuvj420p", "yuv422p", "rgb24", "bgr24", "pal8", "gray", "yuv444p", "rgba", "yuv422p10le"]


def numbered(count, height=64, width=96):
    """Pictures that say their own number: 8 blocks, black or white, are its bits."""
    images = np.full((count, height, width, 3), 96, np.uint8)
    for n in range(count):
        for bit in range(8):
            images[n, 16:48, 8 + bit * 10 : 16 + bit * 10] = 235 if n >> bit & 1 else 16
    return images


def number_of(image):
    return sum((image[32, 12 + bit * 10].mean() > 128) << bit for bit in range(8))


PIXELS = {"mjpeg": "yuvj420p", "qtrle": "rgb24", "png": "rgb24", "prores": "yuv422p10le"}


def write_video(
    path, images, ticks=None, codec="libx264", container_options=None, time_base=TICKS, rate=25, pixels="", **options
):
    """A video of pictures at times in ticks of `time_base`, or by its rate; returns its path."""
    if ticks is None:
        ticks, time_base = range(len(images)), Fraction(1, rate)
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels or PIXELS.get(codec, "yuv420p")
        stream.codec_context.time_base = time_base
        for image, tick in zip(images, ticks, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = tick, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_two_streams(path, clips, default):
    """A file with a video stream per clip, the one numbered `default` marked as that."""
    with av.open(str(path), "w") as container:
        streams = []
        for number, images in enumerate(clips):
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], "yuv420p"
            stream.disposition = av.stream.Disposition(int(number == default))
            streams.append(stream)
        for stream, images in zip(streams, clips, strict=True):
            for image in images:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    return path


ORDERED = {"bf": "2", "g": "10"}
PLAIN = {"bf": "0", "g": "10", "tune": "zerolatency"}


def damage(path, *packets, keep=5, target=None):
    """Overwrite packets of a video, counted as they are stored, but for their first bytes; returns its path."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in packets:
        at, size = places[number]
        data[at + keep : at + size] = np.random.default_rng(number).bytes(size - keep)
    target = target or path
    target.write_bytes(data)
    return target


def noisy(count, height=64, width=96):
    """Numbered pictures with noise that changes, so that packets are large and every pixel tells."""
    noise = np.random.default_rng(5).integers(-20, 20, (count, height, width, 3))
    return np.clip(numbered(count, height, width) + noise, 0, 255).astype(np.uint8)


def writable_codecs():
    """Every codec of FFmpeg that can write a video here, without special hardware."""
    for name in sorted(av.codecs_available):
        try:
            codec = av.Codec(name, "w")
        except ValueError:  # it only decodes
            continue
        if codec.type == "video" and not any(word in name for word in (*HARDWARE, "dnxhd", "dvvideo", "vnull")):
            yield codec


def write_any(path, codec):
    """A video of any codec in any container; False where FFmpeg cannot."""
    kinds = [each.name for each in av.Codec(codec, "w").video_formats or []]
    kind = next((name for name in FORMATS if name in kinds), kinds[0] if kinds else "yuv420p")
    height, width = {"h261": (144, 176), "h263": (144, 176)}.get(codec, (64, 96))
    options = {"strict": "-2", "g": "8"} | ({"x265-params": "log-level=none"} if codec == "libx265" else {})
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25, options=options)
            stream.height, stream.width, stream.pix_fmt = height, width, kind
            for number, image in enumerate(noisy(20)):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(width, height, kind)
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return True
    except (av.FFmpegError, ValueError, OSError, TypeError):
        return False
