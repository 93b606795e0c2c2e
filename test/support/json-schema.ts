/** Checks a value against a JSON Schema: the keywords that our own schema uses, and no others. */

type Schema = Readonly<Record<string, unknown>>;

const KNOWN = new Set(
  "$schema $id $defs $ref $comment title description type properties additionalProperties required items minItems maxItems uniqueItems maxProperties minProperties propertyNames oneOf anyOf const enum minLength maxLength pattern format minimum maximum".split(
    " ",
  ),
);

/** Paths at which the value does not fit. */
export function misfits(value: unknown, schema: Schema, root: Schema = schema, path = "$"): readonly string[] {
  for (const keyword of Object.keys(schema)) if (!KNOWN.has(keyword)) throw new Error(`unknown keyword ${keyword}`);
  const found: string[] = [];
  const refuse = (keyword: string): void => {
    found.push(`${path} ${keyword}`);
  };
  if (typeof schema.$ref === "string") {
    const target = (root.$defs as Record<string, Schema>)[schema.$ref.replace("#/$defs/", "")];
    if (target === undefined) throw new Error(`no ${schema.$ref}`);
    found.push(...misfits(value, target, root, path));
  }
  const types = schema.type === undefined ? undefined : [schema.type].flat();
  if (types !== undefined && !types.some((type) => isOf(value, String(type)))) refuse("type");
  if ("const" in schema && schema.const !== value) refuse("const");
  if (Array.isArray(schema.enum) && !schema.enum.includes(value)) refuse("enum");
  for (const [keyword, fits] of [
    ["oneOf", (count: number) => count === 1],
    ["anyOf", (count: number) => count > 0],
  ] as const) {
    const choices = schema[keyword] as readonly Schema[] | undefined;
    if (choices === undefined) continue;
    if (!fits(choices.filter((choice) => misfits(value, choice, root, path).length === 0).length)) refuse(keyword);
  }
  if (typeof value === "string") {
    const length = [...value].length;
    if (length < Number(schema.minLength ?? 0)) refuse("minLength");
    if (length > Number(schema.maxLength ?? Number.POSITIVE_INFINITY)) refuse("maxLength");
    if (typeof schema.pattern === "string" && !new RegExp(schema.pattern, "u").test(value)) refuse("pattern");
  }
  if (typeof value === "number") {
    if (value < Number(schema.minimum ?? Number.NEGATIVE_INFINITY)) refuse("minimum");
    if (value > Number(schema.maximum ?? Number.POSITIVE_INFINITY)) refuse("maximum");
  }
  if (Array.isArray(value)) {
    if (value.length < Number(schema.minItems ?? 0)) refuse("minItems");
    if (value.length > Number(schema.maxItems ?? Number.POSITIVE_INFINITY)) refuse("maxItems");
    if (schema.uniqueItems === true && new Set(value.map((item) => JSON.stringify(item))).size < value.length) {
      refuse("uniqueItems");
    }
    if (schema.items !== undefined) {
      for (const [index, item] of value.entries()) {
        found.push(...misfits(item, schema.items as Schema, root, `${path}[${index}]`));
      }
    }
  }
  if (isOf(value, "object")) found.push(...misfitMembers(value as Record<string, unknown>, schema, root, path));
  return found;
}

function misfitMembers(value: Record<string, unknown>, schema: Schema, root: Schema, path: string): readonly string[] {
  const found: string[] = [];
  const names = Object.keys(value);
  const properties = (schema.properties ?? {}) as Record<string, Schema>;
  for (const name of (schema.required ?? []) as readonly string[]) {
    if (!names.includes(name)) found.push(`${path} required ${name}`);
  }
  if (names.length < Number(schema.minProperties ?? 0)) found.push(`${path} minProperties`);
  if (names.length > Number(schema.maxProperties ?? Number.POSITIVE_INFINITY)) found.push(`${path} maxProperties`);
  for (const name of names) {
    if (schema.propertyNames !== undefined)
      found.push(...misfits(name, schema.propertyNames as Schema, root, `${path} name ${name}`));
    const own = Object.hasOwn(properties, name) ? properties[name] : schema.additionalProperties;
    if (own === false) found.push(`${path} additionalProperties ${name}`);
    else if (own !== undefined && own !== true)
      found.push(...misfits(value[name], own as Schema, root, `${path}.${name}`));
  }
  return found;
}

function isOf(value: unknown, type: string): boolean {
  if (type === "object") return typeof value === "object" && value !== null && !Array.isArray(value);
  if (type === "array") return Array.isArray(value);
  if (type === "integer") return Number.isInteger(value);
  return typeof value === type;
}
