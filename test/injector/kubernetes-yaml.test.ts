import t from "tap";
import { parse, parseDocument } from "yaml";
import { KUBERNETES_YAML } from "../../src/injector/kubernetes-yaml.ts";

/** As Helm 3.22 and kubectl 1.34 read them (sigs.k8s.io/yaml). */
const SCALARS: readonly (readonly [text: string, value: unknown])[] = [
  ["0644", 420],
  ["0o644", 420],
  ["-0644", -420],
  ["-0o17", -15],
  ["0x1F", 31],
  ["0b11", 3],
  ["08", 8],
  ["1_000", 1_000],
  ["1_000.5", 1_000.5],
  ["+1", 1],
  [".5", 0.5],
  ["1e3", 1_000],
  ["yes", true],
  ["y", true],
  ["on", true],
  ["Off", false],
  ["N", false],
  ["nO", "nO"],
  ["12:30:45", "12:30:45"],
  ["190:20:30.15", "190:20:30.15"],
  ["2001-01-01", "2001-01-01"],
  ["=", "="],
  ["~", null],
  ["0o9", "0o9"],
  ["_1", "_1"],
];
for (const [text, value] of SCALARS) {
  t.test(`${text} is ${JSON.stringify(value)}`, async (t) => {
    t.same(parse(text, KUBERNETES_YAML), value);
  });
  t.test(`${text} is written as it stands`, async (t) => {
    t.equal(parseDocument(`a: ${text}\n`, KUBERNETES_YAML).toString(), `a: ${text}\n`);
  });
}

t.test("a mapping is merged where << says so", async (t) => {
  t.same(parse("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n", KUBERNETES_YAML), {
    a: { x: 1, true: 2 },
    b: { x: 3, true: 2 },
  });
});

t.test("texts that would be read as something else are written in quotes", async (t) => {
  for (const text of ["yes", "0644", "0o644", "1_000", "null"]) {
    const document = parseDocument("", KUBERNETES_YAML);
    document.contents = document.createNode(text) as never;
    t.match(document.toString(), /^["']/, text);
  }
});
