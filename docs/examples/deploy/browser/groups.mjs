// Which patches lie together, from the assignment that the model gives: no drawing here, and no model.

/** Pixels `[r, g, b, a, ...]` as channels first, with values from -1 to 1. */
export function tensorOf(pixels) {
  const count = pixels.length / 4;
  const values = new Float32Array(3 * count);
  for (let channel = 0; channel < 3; channel++)
    for (let pixel = 0; pixel < count; pixel++)
      values[channel * count + pixel] = 2 * Math.fround(pixels[4 * pixel + channel] / 255) - 1;
  return values;
}

/**
 * The patches of an image, row by row, each with the group that it is in (-1: dropped).
 *
 * Tokens in front that are no patches, such as the class token, are as many as do not fit: the patches are square, and
 * their grid is as wide as the image.
 */
export function grid(assignment, width, height) {
  const columns = Math.floor(Math.sqrt((assignment.length * width) / height));
  const side = width / columns;
  const rows = Math.round(height / side);
  const front = assignment.length - rows * columns;
  const patches = assignment
    .slice(front)
    .map((group, index) => ({ group, x: (index % columns) * side, y: Math.floor(index / columns) * side, side }));
  return { rows, columns, patches };
}

/** For every patch the mean colour of its group, as CSS. */
export function meanColours(pixels, width, { patches }) {
  const sums = new Map();
  for (const { group, x, y, side } of patches) {
    const sum = sums.get(group) ?? [0, 0, 0, 0];
    for (let row = Math.round(y); row < Math.round(y + side); row++)
      for (let column = Math.round(x); column < Math.round(x + side); column++) {
        const at = 4 * (row * width + column);
        for (let channel = 0; channel < 3; channel++) sum[channel] += pixels[at + channel];
        sum[3]++;
      }
    sums.set(group, sum);
  }
  return patches.map(({ group }) => {
    const [r, g, b, count] = sums.get(group);
    return group < 0 ? "black" : `rgb(${Math.round(r / count)} ${Math.round(g / count)} ${Math.round(b / count)})`;
  });
}

/** Lines `[x, y, toX, toY]` between neighbours of different groups. */
export function borders({ rows, columns, patches }) {
  const lines = [];
  for (let index = 0; index < rows * columns; index++) {
    const { group, x, y, side } = patches[index];
    const right = (index + 1) % columns ? patches[index + 1] : null;
    const below = patches[index + columns];
    if (right && right.group !== group) lines.push([x + side, y, x + side, y + side]);
    if (below && below.group !== group) lines.push([x, y + side, x + side, y + side]);
  }
  return lines;
}
