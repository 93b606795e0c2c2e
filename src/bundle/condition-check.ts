/** Checks the types and the cost of a condition before it is ever evaluated. */

import { celEnv, isCelError, parse, plan } from "@bufbuild/cel";
import { readRange } from "./address.ts";
import { type Fact, VARIABLES, type Variable } from "./condition-facts.ts";
import { PATTERN_CHARS_MAX, PATTERN_STATES_MAX, statesOf } from "./condition-patterns.ts";
import type { ConditionFault } from "./condition-text.ts";
import { GLOB_EXPECTED, isGlob } from "./globs.ts";
import { quote, suggest } from "./problem.ts";

type Parsed = ReturnType<typeof parse>;
type Expr = Parsed["expr"];
type Call = Extract<Expr["exprKind"], { case: "callExpr" }>["value"];
type Fold = Extract<Expr["exprKind"], { case: "comprehensionExpr" }>["value"];

/** A type, with the most that its values can hold: what an operation on them costs. */
type Type =
  | { readonly kind: "bool" | "int" | "double" }
  | { readonly kind: "string"; readonly chars: number }
  | { readonly kind: "list"; readonly item: Type; readonly entries: number }
  | {
      readonly kind: "map";
      readonly key: Type;
      readonly value: Type;
      readonly entries: number;
      readonly keys?: readonly string[] | undefined;
    }
  | { readonly kind: "facts"; readonly name: string; readonly fields: Readonly<Record<string, Fact>> };

const BOOL: Type = { kind: "bool" };
const INT: Type = { kind: "int" };
const DOUBLE: Type = { kind: "double" };
const string = (chars: number): Type => ({ kind: "string", chars });

/** Characters of a number as text. */
const NUMBER_CHARS = 32;

/** Characters that are compared, or searched, in about the time of one operation. */
const CHARS_PER_STEP = 128;
/** Characters times states that a pattern gets through in about the time of one operation. */
const STATES_PER_STEP = 8;
/** Compiling a pattern, per state. */
const COMPILE_PER_STATE = 4;
/** Characters that are copied one by one in about the time of one operation. */
const COPIED_PER_STEP = 16;

/** Thrown inside this file only: the first mistake ends the check of its expression. */
class Refused extends Error {
  readonly fault: ConditionFault;
  constructor(fault: ConditionFault) {
    super(fault.expected);
    this.fault = fault;
  }
}

export type Checked =
  | { readonly ok: true /** Operations of an evaluation, at most. */; readonly cost: number }
  | { readonly ok: false; readonly faults: readonly ConditionFault[] };

/** Checks a parsed condition. Faults of all parts joined by `&&` and `||` are told, of each part the first. */
export function checkTypes(parsed: Parsed): Checked {
  const checker = new Checker(parsed);
  const type = checker.typeOf(parsed.expr);
  if (checker.faults.length > 0) return { ok: false, faults: checker.faults };
  if (type !== undefined && type.kind !== "bool") {
    const fault = {
      offset: checker.startOf(parsed.expr),
      expected: "a condition that is true or false",
      got: described(type),
    };
    return { ok: false, faults: [fault] };
  }
  return { ok: true, cost: checker.cost };
}

class Checker {
  readonly faults: ConditionFault[] = [];
  cost = 0;
  /** How often what is being looked at is evaluated: once, or once for each entry of enclosing folds. */
  private times = 1;
  private readonly positions: Readonly<Record<string, number>>;
  private readonly macros: Readonly<Record<string, Expr>>;
  private readonly bound = new Map<string, Type>();

  constructor({ sourceInfo }: Parsed) {
    this.positions = sourceInfo?.positions ?? {};
    this.macros = (sourceInfo?.macroCalls ?? {}) as Readonly<Record<string, Expr>>;
  }

  /** The type, or `undefined` when a fault was noted. */
  typeOf(expr: Expr): Type | undefined {
    try {
      return this.type(expr);
    } catch (error) {
      // Fails closed: the policy is refused with this fault.
      if (!(error instanceof Refused)) throw error;
      this.faults.push(error.fault);
      return undefined;
    }
  }

  /** Where an expression begins, brackets around it aside. */
  startOf(expr: Expr): number {
    let start = this.positionOf(expr);
    for (const part of partsOf(expr)) start = Math.min(start, this.startOf(part));
    return start;
  }

  private positionOf(expr: Expr): number {
    return this.positions[String(expr.id)] ?? 0;
  }

  private spend(steps: number): void {
    this.cost += steps * this.times;
  }

  private refuse(offset: number, expected: string, got: string, suggestion?: string): never {
    throw new Refused({ offset, expected, got, suggestion });
  }

  private type(expr: Expr): Type {
    this.spend(1);
    const { exprKind } = expr;
    switch (exprKind.case) {
      case "constExpr":
        return this.constant(expr, exprKind.value.constantKind);
      case "identExpr":
        return this.variable(expr, exprKind.value.name);
      case "selectExpr": {
        const { operand, field, testOnly } = exprKind.value;
        return this.select(expr, operand as Expr, field, testOnly);
      }
      case "callExpr":
        return this.call(expr, exprKind.value);
      case "listExpr":
        return this.list(expr, exprKind.value.elements);
      case "structExpr":
        return this.map(expr);
      case "comprehensionExpr":
        return this.fold(expr, exprKind.value);
      default:
        return this.refuse(this.positionOf(expr), "an expression", "nothing");
    }
  }

  private constant(expr: Expr, { case: kind, value }: { case: string | undefined; value?: unknown }): Type {
    switch (kind) {
      case "boolValue":
        return BOOL;
      case "int64Value":
        return INT;
      case "doubleValue":
        return DOUBLE;
      case "stringValue":
        return string(String(value).length);
      default: {
        const words: Readonly<Record<string, string>> = {
          uint64Value: "an unsigned number",
          bytesValue: "bytes",
          nullValue: "null",
        };
        return this.refuse(
          this.positionOf(expr),
          "a text, a number, true or false",
          words[kind ?? ""] ?? "another constant",
        );
      }
    }
  }

  private variable(expr: Expr, name: string): Type {
    const bound = this.bound.get(name);
    if (bound !== undefined) return bound;
    const variable = Object.hasOwn(VARIABLES, name) ? VARIABLES[name] : undefined;
    if (variable !== undefined) return typeOfVariable(name, variable);
    const known = [...Object.keys(VARIABLES), ...this.bound.keys()];
    const near = suggest(name, known);
    const wanted = near === undefined ? `one of the variables ${known.join(", ")}` : "a known variable";
    return this.refuse(this.positionOf(expr), wanted, quote(name), near);
  }

  private select(expr: Expr, operand: Expr, field: string, testOnly: boolean): Type {
    const type = this.type(operand);
    // `has(…)` is placed at its own beginning: the selected part is then what is meant.
    const at = testOnly ? this.endOf(operand) : this.positionOf(expr) + 1;
    if (type.kind === "map") {
      this.checkKey(type, field, at);
      return testOnly ? BOOL : type.value;
    }
    if (type.kind !== "facts") {
      return this.refuse(this.startOf(operand), `something with a part ${quote(field)}`, described(type));
    }
    const fact = Object.hasOwn(type.fields, field) ? type.fields[field] : undefined;
    if (fact !== undefined) return testOnly ? BOOL : typeOfFact(fact);
    const known = Object.keys(type.fields);
    const near = suggest(field, known);
    const wanted =
      near === undefined ? `one of the parts of ${type.name}: ${known.join(", ")}` : `a part of ${type.name}`;
    return this.refuse(at, wanted, quote(field), near);
  }

  private endOf(expr: Expr): number {
    const { exprKind } = expr;
    if (exprKind.case === "identExpr") return this.positionOf(expr) + exprKind.value.name.length + 1;
    return this.positionOf(expr) + 1;
  }

  private checkKey(type: Extract<Type, { kind: "map" }>, key: string, at: number): void {
    if (type.keys === undefined || type.keys.includes(key)) return;
    const families = [...new Set(type.keys.map((name) => name.slice(0, name.indexOf("."))))];
    if (families.includes(key))
      this.refuse(
        at,
        `the whole name of a signal in brackets and quotes, such as ["${type.keys.find((name) => name.startsWith(`${key}.`))}"]`,
        quote(key),
      );
    this.refuse(at, "the name of a signal", quote(key), suggest(key, type.keys));
  }

  private list(expr: Expr, elements: readonly Expr[]): Type {
    const [first, ...rest] = elements;
    if (first === undefined) return this.refuse(this.positionOf(expr), "a list with entries", "an empty list");
    const item = rest.reduce((type, element) => this.alike(type, this.type(element), element), this.type(first));
    return { kind: "list", item, entries: elements.length };
  }

  private map(expr: Expr): Type {
    if (expr.exprKind.case !== "structExpr") return this.refuse(0, "a map", "another thing");
    const { messageName, entries } = expr.exprKind.value;
    if (messageName !== "") return this.refuse(this.positionOf(expr), "no messages", quote(messageName));
    let value: Type | undefined;
    let chars = 0;
    for (const entry of entries) {
      if (entry.keyKind.case !== "mapKey" || entry.value === undefined) continue;
      const key = entry.keyKind.value as Expr;
      const keyType = this.want(key, "string");
      if (keyType.kind === "string") chars = Math.max(chars, keyType.chars);
      const own = this.type(entry.value as Expr);
      value = value === undefined ? own : this.alike(value, own, entry.value as Expr);
    }
    if (value === undefined) return this.refuse(this.positionOf(expr), "a map with entries", "an empty map");
    return { kind: "map", key: string(chars), value, entries: entries.length };
  }

  /** The type of both, when entries and branches agree. */
  private alike(type: Type, other: Type, at: Expr): Type {
    if (!sameType(type, other))
      this.refuse(this.startOf(at), described(type), described(other), numberHint(type, other));
    return widest(type, other);
  }

  private want(expr: Expr, kind: "bool" | "int" | "string"): Type {
    const type = this.type(expr);
    if (type.kind !== kind) this.refuse(this.startOf(expr), NAMES[kind], described(type));
    return type;
  }

  private call(expr: Expr, { function: name, target, args }: Call): Type {
    const at = this.positionOf(expr);
    if (target !== undefined) return this.method(at, name, target as Expr, args as Expr[]);
    const [left, right, last] = args as Expr[];
    switch (name) {
      case "_&&_":
      case "_||_": {
        // Each part is checked by itself, so that all their faults are told at once.
        for (const part of args as Expr[]) {
          const type = this.typeOf(part);
          if (type !== undefined && type.kind !== "bool") {
            this.faults.push({ offset: this.startOf(part), expected: NAMES.bool, got: described(type) });
          }
        }
        return BOOL;
      }
      case "!_":
        return this.want(left!, "bool");
      case "-_":
        return this.number(left!);
      case "_?_:_": {
        this.want(left!, "bool");
        const type = this.type(right!);
        return this.alike(type, this.type(last!), last!);
      }
      case "_==_":
      case "_!=_":
        return this.equality(left!, right!);
      case "_<_":
      case "_<=_":
      case "_>_":
      case "_>=_":
        return this.order(left!, right!);
      case "_+_":
        return this.sum(left!, right!);
      case "_-_":
      case "_*_":
      case "_/_":
        return this.arithmetic(left!, right!);
      case "_%_":
        this.want(left!, "int");
        return this.want(right!, "int");
      case "@in":
        return this.membership(left!, right!);
      case "_[_]":
        return this.index(left!, right!);
      default:
        return this.named(at, name, args as Expr[]);
    }
  }

  private number(expr: Expr): Type {
    const type = this.type(expr);
    if (type.kind !== "int" && type.kind !== "double") this.refuse(this.startOf(expr), "a number", described(type));
    return type;
  }

  private equality(left: Expr, right: Expr): Type {
    const type = this.type(left);
    const other = this.type(right);
    for (const [side, found] of [
      [left, type],
      [right, other],
    ] as const) {
      if (found.kind === "facts")
        this.refuse(
          this.startOf(side),
          `a part of ${found.name}, such as ${found.name}.${Object.keys(found.fields)[0]}`,
          found.name,
        );
    }
    if (!sameType(type, other) && !(isNumber(type) && isNumber(other))) {
      this.refuse(this.startOf(right), `${described(type)} to compare with`, described(other));
    }
    this.spend(Math.min(weightOf(type), weightOf(other)));
    return BOOL;
  }

  private order(left: Expr, right: Expr): Type {
    const type = this.type(left);
    if (!isNumber(type) && type.kind !== "string")
      this.refuse(this.startOf(left), "a number or a text", described(type));
    const other = this.type(right);
    if (type.kind !== other.kind && !(isNumber(type) && isNumber(other))) {
      this.refuse(
        this.startOf(right),
        `${isNumber(type) ? "a number" : described(type)} to compare with`,
        described(other),
      );
    }
    this.spend(Math.min(weightOf(type), weightOf(other)));
    return BOOL;
  }

  private sum(left: Expr, right: Expr): Type {
    const type = this.type(left);
    if (isNumber(type)) return this.sameNumber(type, right);
    const other = this.type(right);
    if (type.kind === "string" && other.kind === "string") {
      const chars = type.chars + other.chars;
      this.spend(chars / CHARS_PER_STEP);
      return string(chars);
    }
    if (type.kind === "list" && other.kind === "list" && sameType(type, other)) {
      const entries = type.entries + other.entries;
      this.spend(entries);
      return { kind: "list", item: widest(type.item, other.item), entries };
    }
    if (type.kind !== "string" && type.kind !== "list")
      this.refuse(this.startOf(left), "numbers, texts or lists", described(type));
    return this.refuse(this.startOf(right), `${described(type)} to add`, described(other));
  }

  private arithmetic(left: Expr, right: Expr): Type {
    return this.sameNumber(this.number(left), right);
  }

  private sameNumber(type: Type, right: Expr): Type {
    const other = this.type(right);
    if (other.kind !== type.kind) {
      this.refuse(this.startOf(right), described(type), described(other), numberHint(type, other));
    }
    return type;
  }

  private membership(left: Expr, right: Expr): Type {
    const type = this.type(left);
    const whole = this.type(right);
    if (whole.kind === "map") {
      if (type.kind !== "string") this.refuse(this.startOf(left), "a text", described(type));
      if (left.exprKind.case === "constExpr")
        this.checkKey(whole, String(left.exprKind.value.constantKind.value), this.startOf(left));
      return BOOL;
    }
    if (whole.kind !== "list") return this.refuse(this.startOf(right), "a list or a map", described(whole));
    if (!sameType(type, whole.item) && !(isNumber(type) && isNumber(whole.item))) {
      this.refuse(this.startOf(left), `${described(whole.item)}, as in the list`, described(type));
    }
    this.spend(whole.entries * (1 + Math.min(weightOf(type), weightOf(whole.item))));
    return BOOL;
  }

  private index(left: Expr, right: Expr): Type {
    const whole = this.type(left);
    if (whole.kind === "list") {
      this.want(right, "int");
      return whole.item;
    }
    if (whole.kind === "map") {
      this.want(right, "string");
      if (right.exprKind.case === "constExpr")
        this.checkKey(whole, String(right.exprKind.value.constantKind.value), this.startOf(right));
      return whole.value;
    }
    if (whole.kind === "facts") {
      return this.refuse(
        this.startOf(right),
        `a part after a dot, such as ${whole.name}.${Object.keys(whole.fields)[0]}`,
        "brackets",
      );
    }
    return this.refuse(this.startOf(left), "a list or a map", described(whole));
  }

  private named(at: number, name: string, args: readonly Expr[]): Type {
    const [first, second] = args;
    const arity = ARITY[name];
    if (arity === undefined) {
      if (name === "has") return this.refuse(at, "has(a.b), with the part that is asked for", "has of something else");
      if (Object.hasOwn(METHODS, name) || FOLDS.includes(name)) {
        return this.refuse(at, `something.${name}(…)`, `${name}(…)`);
      }
      const known = [...Object.keys(ARITY), "has"];
      const near = suggest(name, [...known, ...Object.keys(METHODS)]);
      return this.refuse(
        at,
        near === undefined ? `one of the functions ${known.join(", ")}` : "a known function",
        quote(name),
        near,
      );
    }
    if (args.length !== arity)
      return this.refuse(at, `${arity} argument${arity === 1 ? "" : "s"} of ${name}`, String(args.length));
    switch (name) {
      case "inRange": {
        this.want(first!, "string");
        this.spend(8);
        const range = this.literal(second!, "an address or a CIDR range in quotes");
        if (readRange(range) === undefined)
          this.refuse(this.startOf(second!), "an address or a CIDR range", quote(range));
        return BOOL;
      }
      case "glob": {
        const type = this.want(first!, "string");
        const glob = this.literal(second!, "a glob in quotes");
        if (!isGlob(glob)) this.refuse(this.startOf(second!), GLOB_EXPECTED, quote(glob));
        this.spend(1 + 4 * weightOf(type));
        return BOOL;
      }
      case "size":
        return this.sizeOf(first!, this.type(first!));
      case "string": {
        const type = this.type(first!);
        if (type.kind === "string") return type;
        if (type.kind !== "bool" && !isNumber(type))
          this.refuse(this.startOf(first!), "a number, true or false", described(type));
        return string(NUMBER_CHARS);
      }
      default: {
        const type = this.type(first!);
        if (!isNumber(type) && type.kind !== "string")
          this.refuse(this.startOf(first!), "a number or a text", described(type));
        this.spend(weightOf(type));
        return name === "int" ? INT : DOUBLE;
      }
    }
  }

  private sizeOf(expr: Expr, type: Type): Type {
    if (type.kind !== "string" && type.kind !== "list" && type.kind !== "map") {
      this.refuse(this.startOf(expr), "a text, a list or a map", described(type));
    }
    this.spend(type.kind === "string" ? type.chars / COPIED_PER_STEP : 1);
    return INT;
  }

  /** A text that stands in the condition itself: it can be checked now. */
  private literal(expr: Expr, wanted: string): string {
    const { exprKind } = expr;
    if (exprKind.case === "constExpr" && exprKind.value.constantKind.case === "stringValue") {
      return exprKind.value.constantKind.value;
    }
    return this.refuse(this.startOf(expr), wanted, "something else");
  }

  private method(at: number, name: string, target: Expr, args: readonly Expr[]): Type {
    const after = at + 1;
    const type = this.type(target);
    if (name === "size" && args.length === 0) return this.sizeOf(target, type);
    if (name === "join") return this.join(after, target, type, args);
    const method = Object.hasOwn(METHODS, name) ? METHODS[name] : undefined;
    if (method === undefined) {
      const known = [...Object.keys(METHODS), ...FOLDS, "size", "join"];
      if (FOLDS.includes(name))
        return this.refuse(after, `${name}(x, condition on x)`, `${name} of ${args.length} arguments`);
      const near = suggest(name, known);
      return this.refuse(
        after,
        near === undefined ? `one of the methods ${known.join(", ")}` : "a known method",
        quote(name),
        near,
      );
    }
    if (type.kind !== "string") return this.refuse(this.startOf(target), "a text", described(type));
    if (args.length < method.args.length - (method.optional ?? 0) || args.length > method.args.length) {
      return this.refuse(
        after,
        `${method.args.length} argument${method.args.length === 1 ? "" : "s"} of ${name}`,
        String(args.length),
      );
    }
    for (const [index, arg] of args.entries()) this.want(arg, method.args[index]!);
    if (name === "matches") {
      this.pattern(args[0]!, type.chars);
      return BOOL;
    }
    this.spend(type.chars / (method.copies === true ? COPIED_PER_STEP : CHARS_PER_STEP));
    switch (method.result) {
      case "bool":
        return BOOL;
      case "int":
        return INT;
      case "list":
        return { kind: "list", item: string(type.chars), entries: type.chars + 1 };
      default:
        return name === "charAt" ? string(1) : type;
    }
  }

  private join(at: number, target: Expr, type: Type, args: readonly Expr[]): Type {
    if (type.kind !== "list" || type.item.kind !== "string")
      return this.refuse(this.startOf(target), "a list of texts", described(type));
    if (args.length > 1) return this.refuse(at, "at most 1 argument of join", String(args.length));
    const separator = args[0] === undefined ? undefined : this.want(args[0], "string");
    const between = separator?.kind === "string" ? separator.chars : 0;
    const chars = type.entries * (type.item.chars + between);
    this.spend(type.entries + chars / CHARS_PER_STEP);
    return string(chars);
  }

  private pattern(expr: Expr, chars: number): void {
    const pattern = this.literal(expr, "a pattern in quotes");
    const at = this.startOf(expr);
    if (pattern.length > PATTERN_CHARS_MAX)
      this.refuse(at, `a pattern of at most ${PATTERN_CHARS_MAX} characters`, String(pattern.length));
    const states = statesOf(pattern);
    if (states > PATTERN_STATES_MAX)
      this.refuse(at, `a pattern of at most ${PATTERN_STATES_MAX} parts, repetitions counted`, String(states));
    const tried = tryPattern({ pattern });
    if (isCelError(tried))
      this.refuse(
        at,
        "an RE2 pattern (https://github.com/google/re2/wiki/Syntax)",
        quote(tried.message.replace(/^Error: |^error parsing regexp: /g, "")),
      );
    this.spend(states * COMPILE_PER_STATE + (states * chars) / STATES_PER_STEP);
  }

  private fold(expr: Expr, { iterRange, iterVar, loopStep }: Fold): Type {
    const macro = this.macros[String(expr.id)]?.exprKind;
    const name = macro?.case === "callExpr" ? macro.value.function : "";
    const at = this.positionOf(expr);
    const range = this.type(iterRange as Expr);
    if (range.kind !== "list" && range.kind !== "map") {
      return this.refuse(this.startOf(iterRange as Expr), "a list or a map", described(range));
    }
    if (Object.hasOwn(VARIABLES, iterVar)) {
      return this.refuse(at, "another name for the entry", quote(iterVar));
    }
    const outer = this.bound.get(iterVar);
    this.bound.set(iterVar, range.kind === "list" ? range.item : range.key);
    const times = this.times;
    this.times *= Math.max(1, range.entries);
    this.spend(4);
    try {
      return this.folded(name, at, range.entries, loopStep as Expr);
    } finally {
      this.times = times;
      if (outer === undefined) this.bound.delete(iterVar);
      else this.bound.set(iterVar, outer);
    }
  }

  /** What the loop does is found in how the parser spelt the macro out. */
  private folded(name: string, at: number, entries: number, step: Expr): Type {
    const args = step.exprKind.case === "callExpr" ? (step.exprKind.value.args as Expr[]) : [];
    switch (name) {
      case "all":
      case "exists":
        this.want(args[1]!, "bool");
        return BOOL;
      case "exists_one":
      case "existsOne":
        this.want(args[0]!, "bool");
        return BOOL;
      case "filter":
      case "map": {
        const filtered = step.exprKind.case === "callExpr" && step.exprKind.value.function === "_?_:_";
        if (filtered) this.want(args[0]!, "bool");
        const sum = filtered ? args[1]! : step;
        const added = sum.exprKind.case === "callExpr" ? (sum.exprKind.value.args[1] as Expr) : undefined;
        const item = added?.exprKind.case === "listExpr" ? (added.exprKind.value.elements[0] as Expr) : undefined;
        if (item === undefined) return this.refuse(at, `one of the macros ${FOLDS.join(", ")}`, quote(name));
        this.spend(entries / COPIED_PER_STEP);
        return { kind: "list", item: this.type(item), entries };
      }
      default:
        return this.refuse(at, `one of the macros ${FOLDS.join(", ")}`, quote(name));
    }
  }
}

/** Number of arguments of the functions that are no methods. */
const ARITY: Readonly<Record<string, number>> = { inRange: 2, glob: 2, size: 1, int: 1, double: 1, string: 1 };

export const FOLDS = ["all", "exists", "exists_one", "filter", "map"];

interface Method {
  readonly args: readonly ("string" | "int")[];
  /** How many of the last arguments may be left out. */
  readonly optional?: number;
  readonly result: "bool" | "int" | "string" | "list";
  /** Whether each character is copied by itself. */
  readonly copies?: boolean;
}

/** Methods of texts. */
const METHODS: Readonly<Record<string, Method>> = {
  startsWith: { args: ["string"], result: "bool" },
  endsWith: { args: ["string"], result: "bool" },
  contains: { args: ["string"], result: "bool" },
  matches: { args: ["string"], result: "bool" },
  lowerAscii: { args: [], result: "string", copies: true },
  upperAscii: { args: [], result: "string", copies: true },
  trim: { args: [], result: "string" },
  charAt: { args: ["int"], result: "string" },
  indexOf: { args: ["string"], result: "int" },
  lastIndexOf: { args: ["string"], result: "int" },
  substring: { args: ["int", "int"], optional: 1, result: "string" },
  split: { args: ["string"], result: "list", copies: true },
};

/** Functions and methods, for the documentation. */
export const FUNCTION_NAMES: readonly string[] = [
  ...Object.keys(ARITY),
  "has",
  ...Object.keys(METHODS),
  "join",
  ...FOLDS,
];

const NAMES = { bool: "true or false", int: "a whole number", double: "a number with decimals", string: "a text" };

function described(type: Type): string {
  switch (type.kind) {
    case "list":
      return `a list of ${plural(type.item)}`;
    case "map":
      return "a map";
    case "facts":
      return type.name;
    default:
      return NAMES[type.kind];
  }
}

function plural(type: Type): string {
  const words = { bool: "true and false", int: "whole numbers", double: "numbers with decimals", string: "texts" };
  return type.kind === "list" ? "lists" : type.kind === "map" || type.kind === "facts" ? "maps" : words[type.kind];
}

/** How to write a number so that it fits. */
function numberHint(wanted: Type, found: Type): string | undefined {
  if (wanted.kind === "double" && found.kind === "int") return "double(…), or a literal such as 20.0";
  return wanted.kind === "int" && found.kind === "double" ? "int(…), or double(…) around the whole number" : undefined;
}

function isNumber(type: Type): boolean {
  return type.kind === "int" || type.kind === "double";
}

function sameType(type: Type, other: Type): boolean {
  if (type.kind === "list") return other.kind === "list" && sameType(type.item, other.item);
  if (type.kind === "map") return other.kind === "map" && sameType(type.value, other.value);
  return type.kind !== "facts" && type.kind === other.kind;
}

/** The one that can hold the values of both. */
function widest(type: Type, other: Type): Type {
  if (type.kind === "string" && other.kind === "string") return string(Math.max(type.chars, other.chars));
  if (type.kind === "list" && other.kind === "list") {
    return { kind: "list", item: widest(type.item, other.item), entries: Math.max(type.entries, other.entries) };
  }
  if (type.kind === "map" && other.kind === "map") {
    return {
      ...type,
      value: widest(type.value, other.value),
      key: widest(type.key, other.key),
      entries: Math.max(type.entries, other.entries),
      keys: undefined,
    };
  }
  return type;
}

/** Steps of looking at all of a value. */
function weightOf(type: Type): number {
  switch (type.kind) {
    case "string":
      return type.chars / CHARS_PER_STEP;
    case "list":
      return type.entries * (1 + weightOf(type.item));
    case "map":
      return type.entries * (2 + weightOf(type.value));
    default:
      return 0;
  }
}

function typeOfVariable(name: string, variable: Variable): Type {
  switch (variable.kind) {
    case "fact":
      return typeOfFact(variable.fact);
    case "facts":
      return { kind: "facts", name, fields: variable.fields };
    case "map": {
      const value = variable.value === "string" ? string(variable.charsMax) : DOUBLE;
      return { kind: "map", key: string(128), value, entries: variable.entriesMax, keys: variable.keys };
    }
  }
}

function typeOfFact({ type, charsMax }: Fact): Type {
  return type === "string" ? string(charsMax) : { kind: type };
}

function partsOf({ exprKind }: Expr): readonly Expr[] {
  switch (exprKind.case) {
    case "selectExpr":
      return [exprKind.value.operand as Expr];
    case "callExpr":
      return [
        ...(exprKind.value.target === undefined ? [] : [exprKind.value.target]),
        ...exprKind.value.args,
      ] as Expr[];
    case "comprehensionExpr":
      return [exprKind.value.iterRange as Expr];
    default:
      return [];
  }
}

/** Compiles a pattern with the engine that will match it. */
const tryPattern = plan(celEnv(), parse('"".matches(pattern)')) as unknown as (bindings: {
  pattern: string;
}) => unknown;
