// Layered layout from left to right (Sugiyama): break cycles, assign layers, order by the barycentre of
// neighbours, assign positions. A pure function: the same rows give the same positions.

const GAP_X = 92;
const GAP_Y = 22;

/** `nodes: [{path}]`, `edges: [{from_path, to_path}]` to `{width, height, nodes: Map(path → {x, y}), edges: [{edge, points, back}]}`. */
export function layout(all, edges, { width, height }) {
  const tied = new Set(edges.flatMap((edge) => [edge.from_path, edge.to_path]));
  const nodes = [...all.filter((node) => tied.has(node.path)), ...all.filter((node) => !tied.has(node.path))];
  const known = new Set(nodes.map((node) => node.path));
  const ways = edges.filter((edge) => known.has(edge.from_path) && known.has(edge.to_path));
  const back = backEdges(nodes, ways);
  const forward = ways.filter((edge) => !back.has(edge));
  const layerOf = layers(nodes, forward);
  const { columns, chains } = withDummies(nodes, forward, layerOf);
  const links = chains.flatMap((chain) => chain.ids.slice(1).map((id, k) => [chain.ids[k], id]));
  order(columns, links);
  const y = place(columns, links, height);
  const lowest = Math.max(0, ...[...y.values()].map((top) => top + height));
  const x = (layer) => layer * (width + GAP_X);
  const at = new Map(nodes.map((node) => [node.path, { x: x(layerOf.get(node.path)), y: y.get(node.path) }]));
  const drawn = chains.map(({ edge, ids }) => ({ edge, back: false, points: points(ids, layerOf.get(edge.from_path), x, y, width, height) }));
  let lane = 0;
  for (const edge of back) {
    const from = at.get(edge.from_path);
    const to = at.get(edge.to_path);
    lane += 1;
    drawn.push({ edge, back: true, points: [{ x: from.x + width, y: from.y + height * 0.76 }, { x: to.x, y: to.y + height * 0.76 }], floor: lowest + 10 + lane * 16 });
  }
  return { width: x(columns.length - 1) + width, height: lowest + (lane ? 20 + lane * 16 : 0), nodes: at, edges: drawn };
}

/** Edges that close a cycle, found depth-first from the nodes without incoming edges; including self-loops. */
function backEdges(nodes, edges) {
  const out = group(edges, (edge) => edge.from_path);
  const entered = new Set(edges.filter((edge) => edge.from_path !== edge.to_path).map((edge) => edge.to_path));
  const state = new Map();
  const back = new Set();
  const visit = (path) => {
    state.set(path, 1);
    for (const edge of out.get(path) ?? []) {
      const seen = state.get(edge.to_path);
      if (seen === 1) back.add(edge);
      else if (!seen) visit(edge.to_path);
    }
    state.set(path, 2);
  };
  const starts = [...nodes.filter((node) => !entered.has(node.path)), ...nodes];
  for (const node of starts) if (!state.get(node.path)) visit(node.path);
  return back;
}

/** Longest path from a start node. */
function layers(nodes, edges) {
  const into = group(edges, (edge) => edge.to_path);
  const layer = new Map();
  const of = (path) => {
    if (!layer.has(path)) {
      layer.set(path, 0);
      layer.set(path, Math.max(0, ...(into.get(path) ?? []).map((edge) => of(edge.from_path) + 1)));
    }
    return layer.get(path);
  };
  for (const node of nodes) of(node.path);
  return layer;
}

/** A long edge gets a position in each layer it crosses, so that it passes between cards. */
function withDummies(nodes, edges, layerOf) {
  const columns = Array.from({ length: Math.max(0, ...layerOf.values()) + 1 }, () => []);
  for (const node of nodes) columns[layerOf.get(node.path)].push(node.path);
  const chains = edges.map((edge, k) => {
    const ids = [edge.from_path];
    for (let layer = layerOf.get(edge.from_path) + 1; layer < layerOf.get(edge.to_path); layer += 1) {
      const id = `\u0000${k}.${layer}`;
      columns[layer].push(id);
      ids.push(id);
    }
    return { edge, ids: [...ids, edge.to_path] };
  });
  return { columns, chains };
}

function order(columns, links) {
  const neighbours = new Map();
  for (const [a, b] of links) {
    neighbours.set(a, [...(neighbours.get(a) ?? []), b]);
    neighbours.set(b, [...(neighbours.get(b) ?? []), a]);
  }
  const index = new Map();
  const number = () => { for (const column of columns) column.forEach((id, k) => index.set(id, k / column.length)); };
  number();
  for (let sweep = 0; sweep < 6; sweep += 1) {
    for (const column of sweep % 2 ? [...columns].reverse() : columns) {
      const middle = new Map(column.map((id) => {
        const near = neighbours.get(id) ?? [];
        return [id, near.length ? near.reduce((sum, other) => sum + index.get(other), 0) / near.length : 2 + index.get(id)];
      }));
      column.sort((a, b) => middle.get(a) - middle.get(b));
      number();
    }
  }
}

function place(columns, links, height) {
  const isDummy = (id) => id.startsWith("\u0000");
  const tall = (id) => (isDummy(id) ? 12 : height);
  const sizes = columns.map((column) => column.reduce((sum, id) => sum + tall(id) + GAP_Y, -GAP_Y));
  const whole = Math.max(...sizes, 0);
  const y = new Map();
  columns.forEach((column, k) => {
    let top = (whole - sizes[k]) / 2;
    for (const id of column) { y.set(id, top); top += tall(id) + GAP_Y; }
  });
  // Move each node towards the middle of its neighbours, as far as adjacent nodes allow.
  for (let round = 0; round < 8; round += 1) {
    for (const column of round % 2 ? [...columns].reverse() : columns) {
      column.forEach((id, k) => {
        const near = links.filter(([a, b]) => a === id || b === id).map(([a, b]) => (a === id ? b : a));
        if (!near.length) return;
        const want = near.reduce((sum, other) => sum + y.get(other) + tall(other) / 2, 0) / near.length - tall(id) / 2;
        const low = k ? y.get(column[k - 1]) + tall(column[k - 1]) + GAP_Y : 0;
        const high = k + 1 < column.length ? y.get(column[k + 1]) - GAP_Y - tall(id) : Infinity;
        y.set(id, Math.max(low, Math.min(want, Math.max(low, high))));
      });
    }
  }
  return y;
}

function points(ids, layer, x, y, width, height) {
  return ids.flatMap((id, k) => {
    if (k === 0) return [{ x: x(layer) + width, y: y.get(id) + height / 2 }];
    if (k === ids.length - 1) return [{ x: x(layer + k), y: y.get(id) + height / 2 }];
    return [{ x: x(layer + k), y: y.get(id) + 6 }, { x: x(layer + k) + width, y: y.get(id) + 6 }];
  });
}

function group(items, key) {
  const groups = new Map();
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item]);
  return groups;
}
