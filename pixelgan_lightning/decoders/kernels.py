"""The loop over pixels of a gated PixelCNN, compiled by numba; see ``compiled.py``, which prepares what it reads.

Arrays are flat, and the number of channels is a constant to the compiler: only then does it see that the rows of a
matrix do not overlap, and turns the innermost loops into vector instructions. A few images go together, so that each
weight that is loaded is used several times. Nothing is allocated in the loop.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

TILE = 8  # images that go together
_options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}
_inline = numba.njit(forceinline=True, **_options)


@_inline
def _multiply_add(out, out_at, a, a_at, a_stride, w, w_at, m, k, n):  # type: ignore[no-untyped-def]
    """``out[m, n] += a[m, k] @ w[k, n]``; rows of ``a`` are ``a_stride`` apart, the others lie behind each other."""
    # Four rows by three of the sum, with the rows of w and the result: as much as 16 vector registers hold (AVX2).
    # Unsigned, because numba looks whether a signed index is negative, and then reads element by element.
    i, un, two = 0, np.uint64(n), np.uint64(2 * n)
    while i + 4 <= m:
        o = np.uint64(out_at + i * n)
        a0 = a_at + i * a_stride
        a1 = a0 + a_stride
        a2 = a1 + a_stride
        a3 = a2 + a_stride
        p = 0
        while p + 3 <= k:
            x = np.uint64(w_at + p * n)
            a00, a01, a02 = a[a0 + p], a[a0 + p + 1], a[a0 + p + 2]
            a10, a11, a12 = a[a1 + p], a[a1 + p + 1], a[a1 + p + 2]
            a20, a21, a22 = a[a2 + p], a[a2 + p + 1], a[a2 + p + 2]
            a30, a31, a32 = a[a3 + p], a[a3 + p + 1], a[a3 + p + 2]
            for j in range(un):
                w0, w1, w2 = w[x + j], w[x + un + j], w[x + two + j]
                out[o + j] += a00 * w0 + a01 * w1 + a02 * w2
                out[o + un + j] += a10 * w0 + a11 * w1 + a12 * w2
                out[o + two + j] += a20 * w0 + a21 * w1 + a22 * w2
                out[o + two + un + j] += a30 * w0 + a31 * w1 + a32 * w2
            p += 3
        while p < k:
            x = np.uint64(w_at + p * n)
            b0, b1, b2, b3 = a[a0 + p], a[a1 + p], a[a2 + p], a[a3 + p]
            for j in range(un):
                w0 = w[x + j]
                out[o + j] += b0 * w0
                out[o + un + j] += b1 * w0
                out[o + two + j] += b2 * w0
                out[o + two + un + j] += b3 * w0
            p += 1
        i += 4
    while i < m:
        o = np.uint64(out_at + i * n)
        a0 = a_at + i * a_stride
        p = 0
        while p + 3 <= k:
            x = np.uint64(w_at + p * n)
            b0, b1, b2 = a[a0 + p], a[a0 + p + 1], a[a0 + p + 2]
            for j in range(un):
                out[o + j] += b0 * w[x + j] + b1 * w[x + un + j] + b2 * w[x + two + j]
            p += 3
        while p < k:
            x = np.uint64(w_at + p * n)
            b0 = a[a0 + p]
            for j in range(un):
                out[o + j] += b0 * w[x + j]
            p += 1
        i += 1


@_inline
def _fill(out, out_at, a, a_at, m, stride, n):  # type: ignore[no-untyped-def]
    """``m`` rows of ``n`` numbers from rows of ``a`` that are ``stride`` apart; 0 repeats one row."""
    for i in range(m):
        o, s = np.uint64(out_at + i * n), np.uint64(a_at + i * stride)
        for j in range(np.uint64(n)):
            out[o + j] = a[s + j]


@_inline
def _gate(out, out_at, a, a_at, m, c, exact, lambert):  # type: ignore[no-untyped-def]
    """``out[m, c] = tanh(f) sigmoid(g)`` of the halves of ``a[m, 2c]``."""
    if exact:
        for i in range(m):
            o, s, uc = np.uint64(out_at + i * c), np.uint64(a_at + 2 * i * c), np.uint64(c)
            for j in range(uc):
                f, g = a[s + j], a[s + uc + j]
                out[o + j] = math.tanh(f) / (1 + math.exp(-g))
    else:
        # Lambert's continued fraction of tanh, seven terms deep, is p(x) / q(x); at |x| <= 4.5 it is exact to float32,
        # and tanh(2x) = 2pq / (p^2 + q^2) reaches 9, where tanh is 1. Then sigmoid(4x) = (p + q)^2 / 2(p^2 + q^2).
        p1, p2, p3 = lambert[0], lambert[1], lambert[2]
        q1, q2, q3 = lambert[3], lambert[4], lambert[5]
        one, half, quarter, limit = lambert[6], lambert[7], lambert[8], lambert[9]
        for i in range(m):
            o, s, uc = np.uint64(out_at + i * c), np.uint64(a_at + 2 * i * c), np.uint64(c)
            for j in range(uc):
                f, g = a[s + j] * half, a[s + uc + j] * quarter
                f = min(max(f, -limit), limit)
                g = min(max(g, -limit), limit)
                y, z = f * f, g * g
                pf, qf = f * (one + y * (p1 + y * (p2 + y * p3))), one + y * (q1 + y * (q2 + y * q3))
                pg, qg = g * (one + z * (p1 + z * (p2 + z * p3))), one + z * (q1 + z * (q2 + z * q3))
                t = pg + qg
                out[o + j] = pf * qf * t * t / ((pf * pf + qf * qf) * (pg * pg + qg * qg))


@functools.cache
def image_loop(channels: int, exact: bool) -> Callable[..., None]:
    """The compiled loop for decoders of so many channels; ``exact``: tanh of the C library (for float64)."""
    c, n = channels, 2 * channels

    def draw(x, u, given, images, sizes, reaches, dilations, first, layers, head, temperature, lambert):  # type: ignore[no-untyped-def]
        """Fill ``x`` ``[B, H, W, colours]``; the other arrays are those of ``compiled.py``."""
        begin, end, height, width, colours, levels, per_value = sizes
        first_reach, reach = reaches
        first_v, first_h, first_link, first_bias_v, first_bias_h, first_at = first
        w_v, w_h, w_link, w_out, b_out, bias_v, bias_h, bias_at = layers
        w_hidden, b_hidden, w_colour, w_params, b_params = head
        count = len(dilations)
        kind = x.dtype

        # The image in [-1, 1] with its padding; of each layer the padded vertical input, all rows, and the padded
        # horizontal input of the current row, column after column.
        padded_width = width + 2 * first_reach
        image = np.zeros((TILE, first_reach + height, padded_width * colours), kind)
        flat_image = image.reshape(-1)
        image_size = (first_reach + height) * padded_width * colours
        rows_at, columns_at = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
        for layer in range(count):
            pad = reach * dilations[layer]
            rows_at[layer + 1] = rows_at[layer] + TILE * (height + pad) * (width + 2 * pad) * c
            columns_at[layer + 1] = columns_at[layer] + (width + pad) * TILE * c
        rows, columns = np.zeros(rows_at[count], kind), np.zeros(columns_at[count], kind)
        before = np.empty(width * n, kind)  # a row before its gates
        v = np.empty(TILE * width * c, kind)
        start_first = np.empty(width * TILE * c, kind)
        start = np.empty(count * width * TILE * n, kind)
        gates, gated = np.empty(TILE * n, kind), np.empty(TILE * c, kind)
        h, hidden = np.empty(TILE * c, kind), np.empty(TILE * c, kind)
        params = np.empty(TILE * per_value, kind)

        for tile in range(begin, end, TILE):
            t = min(TILE, end - tile)
            flat_image[:] = 0
            for row in range(height):
                # ---- the vertical stacks of the row, image by image
                for b in range(t):
                    v_at = b * width * c
                    at = first_at[0] * (tile + b) + first_at[1] * row
                    _fill(v, v_at, first_bias_v, at, width, first_at[2], c)
                    for a in range(first_reach):
                        _multiply_add(
                            v,
                            v_at,
                            flat_image,
                            b * image_size + (row + a) * padded_width * colours,
                            colours,
                            first_v,
                            a * (2 * first_reach + 1) * colours * c,
                            width,
                            (2 * first_reach + 1) * colours,
                            c,
                        )
                    _fill(before, 0, first_bias_h, at, width, first_at[2], c)
                    _multiply_add(before, 0, v, v_at, c, first_link, 0, width, c, c)
                    for column in range(width):
                        for j in range(c):
                            start_first[(column * TILE + b) * c + j] = before[column * c + j]
                    for layer in range(count):
                        d = dilations[layer]
                        pad = reach * d
                        line = (width + 2 * pad) * c
                        base = rows_at[layer] + b * (height + pad) * line
                        to = base + (pad + row) * line + pad * c
                        for j in range(width * c):
                            rows[to + j] = v[v_at + j]
                        at = bias_at[0] * layer + bias_at[1] * (tile + b) + bias_at[2] * row
                        _fill(before, 0, bias_v, at, width, bias_at[3], n)
                        for a in range(reach + 1):
                            for k in range(2 * reach + 1):
                                tap = ((layer * (reach + 1) + a) * (2 * reach + 1) + k) * c * n
                                source = base + (row + a * d) * line + k * d * c
                                _multiply_add(before, 0, rows, source, c, w_v, tap, width, c, n)
                        _gate(v, v_at, before, 0, width, c, exact, lambert)
                        _fill(before, 0, bias_h, at, width, bias_at[3], n)
                        _multiply_add(before, 0, v, v_at, c, w_link, layer * c * n, width, c, n)
                        for column in range(width):
                            for j in range(n):
                                start[((layer * width + column) * TILE + b) * n + j] = before[column * n + j]

                # ---- the horizontal stacks, pixel by pixel, all images of the tile at once
                for column in range(width):
                    for j in range(t * c):
                        h[j] = start_first[column * TILE * c + j]
                    for b in range(t):
                        source = b * image_size + ((first_reach + row) * padded_width + column) * colours
                        _multiply_add(h, b * c, flat_image, source, 0, first_h, 0, 1, first_reach * colours, c)
                    for layer in range(count):
                        d = dilations[layer]
                        here = columns_at[layer] + (column + reach * d) * TILE * c
                        for j in range(t * c):
                            columns[here + j] = h[j]
                        for j in range(t * n):
                            gates[j] = start[(layer * width + column) * TILE * n + j]
                        for k in range(reach + 1):
                            tap = (layer * (reach + 1) + k) * c * n
                            source = columns_at[layer] + (column + k * d) * TILE * c
                            _multiply_add(gates, 0, columns, source, c, w_h, tap, t, c, n)
                        _gate(gated, 0, gates, 0, t, c, exact, lambert)
                        for b in range(t):
                            for j in range(c):
                                h[b * c + j] += b_out[layer * c + j]
                        _multiply_add(h, 0, gated, 0, c, w_out, layer * c * c, t, c, c)

                    # ---- the head, channel after channel
                    if given[row, column]:
                        for b in range(t):
                            for colour in range(colours):
                                value = images[tile + b, row, column, colour]
                                x[tile + b, row, column, colour] = value
                                to = (first_reach + column) * colours + colour
                                image[b, first_reach + row, to] = value + value - lambert[6]
                        continue
                    for j in range(t * c):
                        h[j] = max(h[j], lambert[10])
                    for colour in range(colours):
                        _fill(hidden, 0, b_hidden, colour * c, t, 0, c)
                        _multiply_add(hidden, 0, h, 0, c, w_hidden, colour * c * c, t, c, c)
                        for b in range(t):
                            source = (
                                b * image_size + ((first_reach + row) * padded_width + first_reach + column) * colours
                            )
                            _multiply_add(
                                hidden, b * c, flat_image, source, 0, w_colour, colour * colours * c, 1, colour, c
                            )
                        for j in range(t * c):
                            hidden[j] = max(hidden[j], lambert[10])
                        _fill(params, 0, b_params, colour * per_value, t, 0, per_value)
                        _multiply_add(params, 0, hidden, 0, c, w_params, colour * c * per_value, t, c, per_value)
                        for b in range(t):
                            draw_u = u[tile + b, row, column, colour]
                            if per_value == 1:
                                level = 1 if draw_u < 1 / (1 + math.exp(-params[b] / temperature)) else 0
                            else:
                                top = params[b * levels]
                                for j in range(levels):
                                    top = max(top, params[b * levels + j])
                                total = lambert[10]
                                for j in range(levels):
                                    e = math.exp((params[b * levels + j] - top) / temperature)
                                    params[b * levels + j] = e
                                    total += e
                                level, below = 0, params[b * levels]
                                while level < levels - 1 and draw_u * total >= below:
                                    level += 1
                                    below += params[b * levels + level]
                            value = kind.type(level) / kind.type(levels - 1)
                            x[tile + b, row, column, colour] = value
                            to = (first_reach + column) * colours + colour
                            image[b, first_reach + row, to] = value + value - lambert[6]

    try:
        return numba.njit(cache=True, **_options)(draw)
    except RuntimeError:  # no folder to keep the compiled code in: a read-only installation of a user without a home
        return numba.njit(**_options)(draw)
