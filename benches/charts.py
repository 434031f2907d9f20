#!/usr/bin/env python3
"""Draws docs/*.svg and fills in docs/benchmarks.md from the results of `cargo bench` under target/criterion.

With the argument `streams`, only what `cargo bench --bench streams` has measured."""

import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SUBJECT = "sealed-mmap"
INK, SOFT, GRID, PAPER = "#1f2328", "#59636e", "#d8dee4", "#ffffff"
# Told apart with any colour vision (Okabe and Ito); the subject is the strong one.
COLOURS = {
    SUBJECT: "#d55e00",
    "by hand": "#1f2328",
    "memfile + memmap2": "#8c959f",
    "memfd + memmap2": "#8c959f",
    "safe-mmap": "#8c959f",
    "shmem-ipc": "#cc79a7",
    "shm_open + mmap": "#0072b2",
    "shm_open + write": "#56b4e9",
    "pipe": "#009e73",
    "pipe, buffer kept": "#66c2a5",
    "Unix socket": "#b58900",
    "ring": "#d55e00",
    "Unix stream": "#b58900",
    "sealed file each": "#8c959f",
}
SHADES = {4 * KIB: "#9ecae1", MIB: "#4292c6", 64 * MIB: "#08519c"}


def size_name(size):
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"), (1, "B")):
        if size >= unit:
            return f"{size // unit} {name}"


def time_name(nanoseconds):
    for unit, name in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if nanoseconds >= unit:
            return f"{nanoseconds / unit:.3g} {name}"
    return f"{nanoseconds:.3g} ns"


def rate_name(bytes_per_second):
    for unit, name in ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s")):
        if bytes_per_second >= unit:
            return f"{bytes_per_second / unit:.3g} {name}"


def measured():
    """What was measured within a day of the newest result."""
    found = [(path.stat().st_mtime, path) for path in TARGET.glob("criterion/*/*/*/ratio.json")]
    if not found:
        raise SystemExit(f"nothing measured under {TARGET}/criterion: run `cargo bench` first")
    newest = max(found)[0]
    results = [json.loads(path.read_text()) for time, path in found if time > newest - 24 * 3600]
    return sorted(results, key=lambda r: (r["question"], r["baseline"], r["size"]))


def text(x, y, content, anchor="start", size=13, fill=INK, weight="normal"):
    content = content.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
        f' fill="{fill}" font-weight="{weight}">{content}</text>'
    )


def picture(name, width, height, title, subtitle, parts):
    head = [text(24, 34, title, size=18, weight="bold"), text(24, 56, subtitle, fill=SOFT)]
    (DOCS / name).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" role="img" font-family="Helvetica, Arial, DejaVu Sans, sans-serif">\n'
        f"<title>{title}</title>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>\n'
        + "\n".join(head + parts)
        + "\n</svg>\n"
    )


def spread(wanted, gap, low, high):
    """Moves labels apart, as little as needed, in their order."""
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    places = [wanted[at] for at in order]
    for _ in range(500):
        for upper in range(len(places) - 1):
            overlap = gap - (places[upper + 1] - places[upper])
            if overlap > 0:
                places[upper] -= overlap / 2
                places[upper + 1] += overlap / 2
        places = [min(max(place, low), high) for place in places]
    result = [0.0] * len(wanted)
    for at, place in zip(order, places):
        result[at] = place
    return result


def lines(file, title, subtitle, series, colours, names_left=False, per="", name_of=time_name, subject=SUBJECT):
    """Both axes logarithmic; every line carries its name at the end where they lie apart."""
    width, height = 900, 500
    left, right, top, bottom = (200, 816, 84, 444) if names_left else (84, 700, 84, 444)
    tick_at, tick_anchor = (right + 8, "start") if names_left else (left - 8, "end")
    name_at, name_anchor, away = (left, "end", -1) if names_left else (right, "start", 1)
    sizes = sorted({size for points in series.values() for size in points})
    values = [value for points in series.values() for value in points.values()]
    low, high = math.log10(min(values)) - 0.3, math.log10(max(values)) + 0.08
    first, last = math.log2(sizes[0]), math.log2(sizes[-1])

    def x(size):
        return left + (math.log2(size) - first) / (last - first) * (right - left)

    def y(value):
        return bottom - (math.log10(value) - low) / (high - low) * (bottom - top)

    parts = []
    decades = range(math.floor(low), math.ceil(high) + 1)
    steps = (1, 2, 5) if high - low < 3 else (1,)
    for tick in (step * 10.0**decade for decade in decades for step in steps):
        if low <= math.log10(tick) <= high:
            parts.append(
                f'<line x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="{GRID}"/>'
            )
            parts.append(text(tick_at, y(tick) + 4, name_of(tick) + per, tick_anchor, 12, SOFT))
    for size in sizes:
        parts.append(
            f'<line x1="{x(size):.1f}" x2="{x(size):.1f}" y1="{top}" y2="{bottom}" stroke="{GRID}"/>'
        )
        parts.append(text(x(size), bottom + 20, size_name(size), "middle", 12, SOFT))
    names = sorted(series, key=lambda name: name == subject)
    end_size = sizes[0] if names_left else sizes[-1]
    ends = [y(series[name][end_size]) for name in names]
    labels = spread(ends, 17, top + 4, bottom)
    for name, end, label in zip(names, ends, labels):
        colour, strong = colours[name], name == subject
        points = sorted(series[name].items())
        path = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{3.5 if strong else 1.8}"'
            f' stroke-linejoin="round"/>'
        )
        for size, value in points:
            parts.append(
                f'<circle cx="{x(size):.1f}" cy="{y(value):.1f}" r="{4.5 if strong else 3}" fill="{colour}"/>'
            )
        if strong and not names_left:
            # Away from the other lines, which are above where less is better, and from the names.
            below, anchors = (22, ("middle", "middle")) if name_of is time_name else (-14, ("start", "end"))
            for (size, value), anchor in zip((points[0], points[-1]), anchors):
                parts.append(
                    text(x(size), y(value) + below, name_of(value) + per, anchor, 12, colour, "bold")
                )
        parts.append(
            f'<line x1="{name_at + 7 * away}" x2="{name_at + 22 * away}" y1="{end:.1f}"'
            f' y2="{label:.1f}" stroke="{colour}" stroke-width="0.8"/>'
        )
        weight = "bold" if strong else "normal"
        parts.append(
            text(name_at + 26 * away, label + 4, name, name_anchor, fill=colour, weight=weight)
        )
    picture(file, width, height, title, subtitle, parts)


def contestant_of(result):
    return result["baseline"] + result["question"].removeprefix("handoff")


CONTESTANTS = {
    "by hand": "the same calls, with unsafe",
    "memfile + memmap2": "checks two seals",
    "memfd + memmap2": "checks two seals",
    "safe-mmap": "checks three seals",
    "shm_open + write": "the writer can keep writing",
    "shm_open + mmap": "the writer can keep writing",
    "shmem-ipc": "checks two seals",
    "pipe": "a copy, into a new buffer",
    "pipe, buffer kept": "a copy, into the same buffer",
    "Unix socket": "a copy, into a new buffer",
    "pipe to 8 readers": f"1 = {SUBJECT} to 8 readers",
    "pipe, buffer kept to 8 readers": f"1 = {SUBJECT} to 8 readers",
    "Unix socket to 8 readers": f"1 = {SUBJECT} to 8 readers",
}


def bars(name, results, contestants):
    """How long the others take, relative to the subject."""
    found = {(contestant_of(r), r["size"]): 1 / r["ratio"] for r in results}
    sizes = list(SHADES)
    bar, gap, left, top, right = 13, 20, 210, 132, 860
    block = bar * len(sizes) + gap
    height = top + block * len(contestants) + 8
    shown = [found[key] for key in found if key[0] in contestants and key[1] in sizes]
    scale = (right - left) / max(2.0, math.ceil(max(shown) * 4) / 4)

    parts = []
    at = 24.0
    for size in sizes:
        parts.append(f'<rect x="{at}" y="74" width="14" height="14" fill="{SHADES[size]}"/>')
        parts.append(text(at + 20, 86, size_name(size), size=12, fill=SOFT))
        at += 92
    for tick in (0.5 * step for step in range(0, int((right - left) / scale / 0.5) + 1)):
        x = left + tick * scale
        strong = tick == 1
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8}" y2="{height - 12}"'
            f' stroke="{COLOURS[SUBJECT] if strong else GRID}" stroke-width="{2 if strong else 1}"/>'
        )
        label, fill = (SUBJECT, COLOURS[SUBJECT]) if strong else (f"{tick:g}", SOFT)
        weight = "bold" if strong else "normal"
        parts.append(text(x, top - 14, label, "middle", 12, fill, weight))
    for row, contestant in enumerate(contestants):
        y = top + row * block
        middle = y + bar * len(sizes) / 2
        parts.append(text(left - 12, middle - 2, contestant, "end"))
        parts.append(text(left - 12, middle + 14, CONTESTANTS[contestant], "end", 11, SOFT))
        for line, size in enumerate(sizes):
            if (value := found.get((contestant, size))) is None:
                continue
            parts.append(
                f'<rect x="{left}" y="{y + line * bar}" width="{value * scale:.1f}" height="{bar - 1}"'
                f' fill="{SHADES[size]}"/>'
            )
            # Not across the line at 1.
            end = 1 if 1 - 36 / scale < value < 1 else value
            parts.append(
                text(left + end * scale + 5, y + line * bar + 10, f"{value:.2f}", size=10, fill=SOFT)
            )
    picture(
        name,
        900,
        height,
        f"Time to hand bytes to a reader, relative to {SUBJECT}",
        "create, fill, seal, receive, map, read, drop; a longer bar is slower",
        parts,
    )


def table(results, subject=SUBJECT):
    has_target = any(result["target"] is not None for result in results)
    rows = [f"| | compared with | size | {subject} | baseline | ratio | range over fifths |"]
    rows[0] += " target | |" if has_target else ""
    rows.append("|---" * (9 if has_target else 7) + "|")
    for result in results:
        ratio, target = result["ratio"], result["target"]
        last = f" {target:.2f} | {'met' if round(ratio, 3) <= target else '**missed**'} |" if target else " | |"
        by_cpu = " (CPU)" if result["clock"] == "CPU" else ""
        rows.append(
            f"| {result['question']} | {result['baseline']} | {size_name(result['size'])}"
            f" | {time_name(result['subject_ns'])} | {time_name(result['baseline_ns'])}"
            f" | {ratio:.3f}{by_cpu} | {result['low']:.3f}–{result['high']:.3f}"
            f" |{last if has_target else ''}"
        )
    return "\n".join(rows)


def machine():
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    setting = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    policy = re.search(r"\[(.*)\]", setting.read_text() if setting.exists() else "[absent]")
    return (
        f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} CPUs,"
        f" {int(memory[1]) / MIB:.0f} GiB; Linux {platform.release().split('-')[0]},"
        f" shmem_enabled = {policy[1]}; {rustc.split(' (')[0]}."
    )


def counts():
    command = "cargo bench --features valgrind --bench counts".split()
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def fill_in(page, name, content):
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.split(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"


STREAMS = {
    "a stream of records",
    "records to 4 readers",
    "broadcast in one thread",
    "publish to 1 awake readers",
    "publish to 4 awake readers",
    "publish to 16 awake readers",
    "one way, on one CPU",
    "one way, from one CPU to another",
}


def main():
    results = measured()
    streams = [r for r in results if r["question"] in STREAMS]
    if streams:
        draw_streams(streams)
    if "streams" not in sys.argv[1:]:
        draw_files([r for r in results if r["question"] not in STREAMS])


def draw_streams(results):
    ring = [r for r in results if r["question"] == "a stream of records"]
    # As with the handoff: the ring's own time gives the ratios a scale.
    own = {r["size"]: r["subject_ns"] for r in ring if r["baseline"] == "pipe"}
    rates = {"ring": {size: size / time * 1e9 for size, time in own.items()}}
    for result in ring:
        size = result["size"]
        rates.setdefault(result["baseline"], {})[size] = size / (own[size] / result["ratio"]) * 1e9
    lines(
        "streams.svg",
        "A stream of records to another process",
        "bytes per second until the last record is there, by size of a record: higher is faster",
        rates,
        COLOURS,
        name_of=rate_name,
        subject="ring",
    )
    path = DOCS / "benchmarks.md"
    path.write_text(fill_in(path.read_text(), "streams", table(results, "ours")))


def draw_files(results):
    handoff = [r for r in results if r["question"] == "handoff"]
    # Every contestant was measured in turns with the subject, so their ratio holds whatever the
    # machine did meanwhile; the subject's own time gives it a scale.
    own = {r["size"]: r["baseline_ns"] for r in handoff if r["baseline"] == SUBJECT}
    times = {}
    for result in handoff:
        size = result["size"]
        time = own[size] / result["ratio"]
        times.setdefault(result["baseline"], {})[size] = time / size * KIB
    lines(
        "handoff.svg",
        "Handing bytes to a reader",
        "create, fill, seal, receive, map, read, drop: time per KiB",
        times,
        COLOURS,
        names_left=True,
        per="/KiB",
    )
    handoffs = [r for r in results if r["question"].startswith("handoff")]
    bars("ratios.svg", handoffs, CONTESTANTS)
    few = ["by hand", "memfile + memmap2", "shm_open + write", "shm_open + mmap", "shmem-ipc", "pipe, buffer kept"]
    bars("speed.svg", handoffs, few)

    receive = {}
    for result in results:
        if (result["question"], result["baseline"]) == ("receive", "by hand"):
            receive.setdefault(SUBJECT, {})[result["size"]] = result["subject_ns"]
            receive.setdefault("by hand", {})[result["size"]] = result["baseline_ns"]
        if (result["question"], result["baseline"]) == ("receive, untrusted", "by hand"):
            receive.setdefault("untrusted: reserved", {})[result["size"]] = result["subject_ns"]
        if (result["question"], result["baseline"]) == ("handoff", "pipe"):
            receive.setdefault("pipe, whole handoff", {})[result["size"]] = result["baseline_ns"]
    colours = {**COLOURS, "untrusted: reserved": "#0072b2", "pipe, whole handoff": "#009e73"}
    lines(
        "receive.svg",
        "Receiving and mapping a sealed file",
        "check the seals, read the length, map: the same time for any size, unless every page is reserved",
        receive,
        colours,
    )

    path = DOCS / "benchmarks.md"
    page = path.read_text()
    page = fill_in(page, "machine", machine())
    page = fill_in(page, "targets", table([r for r in results if r["target"] is not None]))
    page = fill_in(page, "others", table([r for r in results if r["target"] is None]))
    if shutil.which("strace") and shutil.which("valgrind"):
        page = fill_in(page, "counts", counts().strip())
    path.write_text(page)


main()
