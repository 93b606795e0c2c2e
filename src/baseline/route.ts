/** Turns raw paths into route templates: `/orders/8231` and `/orders/77` are both `/orders/{id}`. */

/** Segments longer than this are values, not names. */
const NAME_CHARS_MAX = 40;
const SEGMENTS_MAX = 12;

/**
 * The template of a path, from its shape alone: numbers, UUIDs, hex strings, dates and long mixed tokens become
 * `{id}`. gRPC paths and short words stay as they are. Bounded in length; the same path always gives the same template.
 */
export function shapeOf(path: string): string {
  let template = "";
  let start = 0;
  let segments = 0;
  const end = path.length;
  while (start < end) {
    if (path.charCodeAt(start) === 47) {
      start++;
      continue;
    }
    let stop = path.indexOf("/", start);
    if (stop === -1) stop = end;
    if (++segments > SEGMENTS_MAX) return `${template}/{rest}`;
    template += isValue(path, start, stop) ? "/{id}" : `/${path.slice(start, stop)}`;
    start = stop + 1;
  }
  return template === "" ? "/" : template;
}

function isValue(path: string, start: number, stop: number): boolean {
  const length = stop - start;
  if (length > NAME_CHARS_MAX) return true;
  let digits = 0;
  let hex = 0;
  let letters = 0;
  let upper = 0;
  for (let i = start; i < stop; i++) {
    const c = path.charCodeAt(i);
    if (c >= 48 && c <= 57) {
      digits++;
      hex++;
    } else if ((c >= 97 && c <= 102) || (c >= 65 && c <= 70)) {
      hex++;
      letters++;
      if (c < 97) upper++;
    } else if ((c >= 103 && c <= 122) || (c >= 71 && c <= 90)) {
      letters++;
      if (c < 97) upper++;
    } else if (c === 37) {
      return true; // percent-encoded text is data, not a name
    }
  }
  if (digits === 0) return false;
  if (digits + countSeparators(path, start, stop) === length) return length > 0 && digits > 0; // numbers, dates, 1.2.3
  if (hex + countSeparators(path, start, stop) === length && length >= 8) return true; // hashes, UUIDs
  // Versions such as v1 or v1beta1 and names such as oauth2 stay; opaque tokens mix many digits with letters.
  return length >= 16 && digits >= 3 && (upper > 0 || digits * 4 >= letters);
}

function countSeparators(path: string, start: number, stop: number): number {
  let count = 0;
  for (let i = start; i < stop; i++) {
    const c = path.charCodeAt(i);
    if (c === 45 || c === 46 || c === 95 || c === 58) count++;
  }
  return count;
}

/** Most texts kept of each kind, and methods of each template. */
const CACHED_MAX = 4096;
const METHODS_MAX = 16;

/** Paths that are alike but for their values. */
interface Shape {
  readonly text: string;
  readonly template: string;
  /** Whether it is in the tree. */
  taught: boolean;
  /** The method asked for last, and its route. */
  method: string | undefined;
  route: string;
}

interface Node {
  readonly children: Map<string, Node>;
  /** Set once this level was found to hold values: every further segment here is `{id}`. */
  collapsed: boolean;
}

/**
 * Learns which levels of a path hold values although they look like names (user names, product slugs): a level with
 * more than `childrenMax` different segments collapses to `{id}`. A path scan therefore ends in one template.
 */
export class RouteTemplates {
  private readonly root: Node = { children: new Map(), collapsed: false };
  private readonly childrenMax: number;
  private readonly nodesMax: number;
  private nodes = 1;
  /** What is known of each shape; bounded, and dropped when a level collapses. */
  private readonly shapes = new Map<string, Shape>();
  private readonly routes = new Map<string, Map<string, string>>();

  constructor(childrenMax: number, nodesMax: number) {
    this.childrenMax = childrenMax;
    this.nodesMax = nodesMax;
  }

  /** The template of `path`, without teaching anything. */
  template(path: string): string {
    return this.shape(path).template;
  }

  /**
   * Method and template of a request, for example `GET /orders/{id}`: one string for all requests of a route, so that
   * looking it up elsewhere compares addresses rather than texts.
   */
  route(method: string, path: string): string {
    const shape = this.shape(path);
    if (shape.method === method) return shape.route;
    const { template } = shape;
    let byMethod = this.routes.get(template);
    if (byMethod === undefined) {
      if (this.routes.size >= CACHED_MAX) this.routes.clear();
      byMethod = new Map();
      this.routes.set(template, byMethod);
    }
    let route = byMethod.get(method);
    if (route === undefined) {
      route = `${method} ${template}`;
      if (byMethod.size < METHODS_MAX) byMethod.set(method, route);
    }
    shape.method = method;
    shape.route = route;
    return route;
  }

  /** Teaches a path that was really served. */
  learn(path: string): void {
    const shape = this.shape(path);
    // A shape is taught once; again only after the tree has changed under it.
    if (shape.taught) return;
    shape.taught = true;
    this.walk(shape.text, true);
    // When a level collapsed under it, all was dropped; itself it counts as taught.
    if (this.shapes.get(shape.text) !== shape) this.shape(shape.text).taught = true;
  }

  private shape(path: string): Shape {
    // The shape of a shape is itself: a path without values is found at once.
    const plain = this.shapes.get(path);
    if (plain !== undefined) return plain;
    const text = shapeOf(path);
    let shape = this.shapes.get(text);
    if (shape === undefined) {
      shape = { text, template: this.walk(text, false), taught: false, method: undefined, route: "" };
      if (this.shapes.size >= CACHED_MAX) this.shapes.clear();
      this.shapes.set(text, shape);
    }
    return shape;
  }

  /** Every learned level, in order of depth, a collapsed one marked by a trailing `*`: for snapshots. */
  paths(): readonly string[] {
    return [...this.eachPath()];
  }

  /** The same one by one; more may be learned meanwhile. */
  eachPath(): Generator<string, void> {
    return pathsBelow(this.root, "");
  }

  /** Takes over what {@link paths} gave. */
  restore(paths: readonly string[]): void {
    for (const path of paths) {
      const collapsed = path.endsWith("*");
      let node = this.root;
      for (const name of (collapsed ? path.slice(0, -1) : path).split("/").slice(1)) {
        let next = node.children.get(name);
        if (next === undefined) {
          if (this.nodes >= this.nodesMax) return;
          next = { children: new Map(), collapsed: false };
          node.children.set(name, next);
          this.nodes++;
        }
        node = next;
      }
      node.collapsed = collapsed;
    }
    this.shapes.clear();
  }

  private walk(shape: string, grow: boolean): string {
    if (shape === "/") return shape;
    let node: Node | undefined = this.root;
    let template = "";
    for (const segment of shape.slice(1).split("/")) {
      const name: string = node?.collapsed === true && segment !== "{id}" ? "{id}" : segment;
      template += `/${name}`;
      let next: Node | undefined = node?.children.get(name);
      if (next === undefined && grow && node !== undefined && this.nodes < this.nodesMax) {
        next = { children: new Map(), collapsed: false };
        node.children.set(name, next);
        this.nodes++;
        if (node.children.size > this.childrenMax && !node.collapsed) this.collapse(node);
      }
      node = next;
    }
    return template;
  }

  private collapse(node: Node): void {
    node.collapsed = true;
    // Subtrees are dropped, not merged: their routes are learned again under `{id}`.
    for (const child of node.children.values()) this.nodes -= sizeOf(child);
    node.children.clear();
    this.shapes.clear();
  }
}

function* pathsBelow(node: Node, path: string): Generator<string, void> {
  if (path !== "" || node.collapsed) yield node.collapsed ? `${path}*` : path;
  for (const [name, child] of node.children) yield* pathsBelow(child, `${path}/${name}`);
}

function sizeOf(node: Node): number {
  let size = 1;
  for (const child of node.children.values()) size += sizeOf(child);
  return size;
}
