// One output pixel: camera bytes to RGB (see streamtok/preprocessing/pixels.py), area mean (see streamtok/preprocessing/preprocessor.py).
// Integers only, so that this gives the same bytes as the numpy code, compiled for a GPU or for a CPU.
//
// Compiled with ENCODING (0 packed RGB, 1 mono, 2 packed 4:2:2, 3 nv12, 4 i420, 5 Bayer) and the numbers of `Shape`.

typedef unsigned char byte;
typedef unsigned long long wide;

struct Shape {
    int height, width, step;                          // of the camera's image; bytes from row to row
    int out_height, out_width;                        // of the result
    int window_top, window_left;                      // which part of the image is read ...
    int rect_top, rect_left, rect_height, rect_width;  // ... and which part of the result it fills
    int sy, dy, sx, dx;                               // window side over rectangle side, reduced: rows, columns
    int red, green, blue, pixel_bytes;                // packed: offsets of the colours in a pixel
    int y_at, u_at, v_at;                             // packed 4:2:2: offsets of Y, U, V in a pair of pixels
    int y0, matrix[9];                                // YUV: black level, and [cy, cu, cv] for R, G, B, times 2^14
    int red_row, red_column, blue_row, blue_column;   // Bayer: where they lie in a 2 x 2 block
};

DEVICE int clip255(int value) { return value < 0 ? 0 : value > 255 ? 255 : value; }

DEVICE int mirrored(int at, int size) { return at < 0 ? -at : at >= size ? 2 * size - 2 - at : at; }

DEVICE void from_yuv(const Shape &s, int y, int u, int v, int *rgb) {
    for (int c = 0; c < 3; ++c) {
        const int *m = s.matrix + 3 * c;
        rgb[c] = clip255((m[0] * (y - s.y0) + m[1] * (u - 128) + m[2] * (v - 128) + (1 << 13)) >> 14);
    }
}

DEVICE int sample(const Shape &s, const byte *data, int row, int column) {
    return data[(long)mirrored(row, s.height) * s.step + mirrored(column, s.width)];
}

// The colour that lies at (own_row, own_column) of each 2 x 2 block, at any pixel; red and blue only.
DEVICE int bayer_colour(const Shape &s, const byte *data, int row, int column, int own_row, int own_column) {
    int same_row = (row & 1) == own_row, same_column = (column & 1) == own_column;
    if (same_row && same_column) return sample(s, data, row, column);
    if (same_row) return (sample(s, data, row, column - 1) + sample(s, data, row, column + 1) + 1) >> 1;
    if (same_column) return (sample(s, data, row - 1, column) + sample(s, data, row + 1, column) + 1) >> 1;
    return (sample(s, data, row - 1, column - 1) + sample(s, data, row - 1, column + 1) +
            sample(s, data, row + 1, column - 1) + sample(s, data, row + 1, column + 1) + 2) >> 2;
}

DEVICE int bayer_green(const Shape &s, const byte *data, int row, int column) {
    int on_red = (row & 1) == s.red_row && (column & 1) == s.red_column;
    int on_blue = (row & 1) == s.blue_row && (column & 1) == s.blue_column;
    if (!on_red && !on_blue) return sample(s, data, row, column);
    return (sample(s, data, row, column - 1) + sample(s, data, row, column + 1) + sample(s, data, row - 1, column) +
            sample(s, data, row + 1, column) + 2) >> 2;
}

DEVICE void read_pixel(const Shape &s, const byte *data, int row, int column, int *rgb) {
    const byte *line = data + (long)row * s.step;
#if ENCODING == 0
    const byte *pixel = line + column * s.pixel_bytes;
    rgb[0] = pixel[s.red], rgb[1] = pixel[s.green], rgb[2] = pixel[s.blue];
#elif ENCODING == 1
    rgb[0] = rgb[1] = rgb[2] = line[column];
#elif ENCODING == 2
    const byte *pair = line + column / 2 * 4;
    from_yuv(s, pair[s.y_at + (column & 1) * 2], pair[s.u_at], pair[s.v_at], rgb);
#elif ENCODING == 3
    const byte *chroma = data + (long)(s.height + row / 2) * s.step + column / 2 * 2;
    from_yuv(s, line[column], chroma[0], chroma[1], rgb);
#elif ENCODING == 4
    const byte *u = data + (long)s.height * s.step + (long)(row / 2) * (s.step / 2) + column / 2;
    from_yuv(s, line[column], u[0], u[(long)(s.height / 2) * (s.step / 2)], rgb);
#else
    rgb[0] = bayer_colour(s, data, row, column, s.red_row, s.red_column);
    rgb[1] = bayer_green(s, data, row, column);
    rgb[2] = bayer_colour(s, data, row, column, s.blue_row, s.blue_column);
#endif
}

DEVICE int overlap(int i, int j, int s, int d) {
    int from = i * s > j * d ? i * s : j * d;
    int to = (i + 1) * s < (j + 1) * d ? (i + 1) * s : (j + 1) * d;
    return to - from;
}

DEVICE int clamped(int at, int size) { return at < 0 ? 0 : at >= size ? size - 1 : at; }

// out is (3, out_height, out_width), planes `plane` bytes apart.
DEVICE void write_pixel(const Shape &s, const byte *data, byte *out, long plane, int row, int column) {
    int i = clamped(row - s.rect_top, s.rect_height), k = clamped(column - s.rect_left, s.rect_width);
    wide sums[3] = {0, 0, 0}, parts = (wide)s.sy * s.sx;
    for (int j = i * s.sy / s.dy; j <= ((i + 1) * s.sy - 1) / s.dy; ++j)
        for (int m = k * s.sx / s.dx; m <= ((k + 1) * s.sx - 1) / s.dx; ++m) {
            int rgb[3];
            read_pixel(s, data, s.window_top + j, s.window_left + m, rgb);
            wide weight = (wide)overlap(i, j, s.sy, s.dy) * overlap(k, m, s.sx, s.dx);
            for (int c = 0; c < 3; ++c) sums[c] += weight * rgb[c];
        }
    for (int c = 0; c < 3; ++c)
        out[c * plane + (long)row * s.out_width + column] = (byte)((2 * sums[c] + parts) / (2 * parts));
}

#ifdef __CUDACC__
extern "C" __global__ void prepare(const byte *data, byte *out, long plane, const Shape *s) {
    int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row < s->out_height && column < s->out_width) write_pixel(*s, data, out, plane, row, column);
}
#else
extern "C" void prepare(const byte *data, byte *out, long plane, const Shape *s) {
    for (int row = 0; row < s->out_height; ++row)
        for (int column = 0; column < s->out_width; ++column) write_pixel(*s, data, out, plane, row, column);
}
#endif
