/** Reads where policy comes from, and refuses settings that do not go together. */

import type { PolicyPlace } from "./config.ts";
import type { SettingName } from "./settings.ts";

export interface Places {
  readonly policy: PolicyPlace | undefined;
  readonly shadow: PolicyPlace | undefined;
  readonly control: string | undefined;
}

type Values = ReadonlyMap<SettingName, string | number | undefined>;

/** Settings that mean something only beside others. */
const NEEDS: readonly { readonly name: SettingName; readonly needs: readonly SettingName[] }[] = [
  { name: "bundle-name", needs: ["bundle-keys"] },
  { name: "control-token-file", needs: ["control"] },
  { name: "control-cert-file", needs: ["control", "control-key-file"] },
  { name: "control-key-file", needs: ["control", "control-cert-file"] },
  { name: "control-ca-file", needs: ["control"] },
];

/**
 * @param where how each given setting was given, for messages
 * @param problems what is wrong is added here
 */
export function readPlaces(values: Values, where: ReadonlyMap<string, string>, problems: string[]): Places {
  const place = (name: "policy" | "shadow"): PolicyPlace | undefined => {
    const text = values.get(name);
    return text === undefined ? undefined : parsePlace(String(text), where.get(name) ?? name, problems);
  };
  const policy = place("policy");
  const shadow = place("shadow");
  const control = values.get("control") === undefined ? undefined : String(values.get("control"));
  const tell = (name: SettingName, rest: string): void => void problems.push(`${where.get(name)}: ${rest}`);
  if (control !== undefined) {
    for (const address of control.split(",")) {
      const parsed = parsePlace(address.trim(), where.get("control") ?? "control", problems);
      if (parsed?.kind !== "path") continue;
      tell("control", `expected https://HOST:PORT, got ${JSON.stringify(address.slice(0, 80))}`);
    }
    if (policy !== undefined) tell("control", `control and policy (${where.get("policy")}) exclude each other`);
  }
  const overNetwork =
    policy?.kind === "url"
      ? "policy"
      : shadow?.kind === "url"
        ? "shadow"
        : control === undefined
          ? undefined
          : "control";
  if (overNetwork !== undefined && values.get("bundle-keys") === undefined) {
    tell(overNetwork, `${overNetwork} over the network needs bundle-keys: only signed policy is believed`);
  }
  for (const name of ["policy-token-file", "policy-ca-file"] as const) {
    if (values.get(name) !== undefined && policy?.kind !== "url" && shadow?.kind !== "url") {
      const other = where.get("policy") ?? where.get("control");
      tell(name, `${name} needs an https:// address in policy or shadow${other === undefined ? "" : `, not ${other}`}`);
    }
  }
  for (const { name, needs } of NEEDS) {
    for (const needed of needs) {
      if (values.get(name) !== undefined && values.get(needed) === undefined) tell(name, `${name} needs ${needed}`);
    }
  }
  return { policy, shadow, control };
}

const LOOPBACK = /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/;

function parsePlace(text: string, where: string, problems: string[]): PolicyPlace | undefined {
  if (!/^[a-z][a-z0-9+.-]*:\/\//i.test(text)) return { kind: "path", path: text };
  const url = URL.canParse(text) ? new URL(text) : undefined;
  // The text is not repeated: it may hold a password.
  if (url === undefined) problems.push(`${where}: expected a path or an https:// address`);
  else if (url.username !== "" || url.password !== "") {
    problems.push(`${where}: expected an address without a password; use a token file`);
  } else if (url.protocol === "https:" || (url.protocol === "http:" && LOOPBACK.test(url.hostname))) {
    return { kind: "url", url };
  } else problems.push(`${where}: expected https:// (http:// on loopback only), got ${url.protocol}//${url.host}`);
  return undefined;
}

export const LABELS_MAX = 64;
/** Given by the sidecar itself in the decision log. */
const RESERVED = ["id", "version"];

/** `k=v,k=v`; `undefined` when it is something else. */
export function parseLabels(text: string): Readonly<Record<string, string>> | undefined {
  if (text === "") return {};
  const labels: Record<string, string> = Object.create(null) as Record<string, string>;
  const pairs = text.split(",");
  if (pairs.length > LABELS_MAX) return undefined;
  for (const pair of pairs) {
    const match = /^\s*([A-Za-z0-9][A-Za-z0-9._/-]{0,252})=([^,=\p{C}]{0,256})$/u.exec(pair);
    const key = match?.[1];
    if (key === undefined || RESERVED.includes(key) || key in labels) return undefined;
    labels[key] = (match?.[2] ?? "").trim();
  }
  return { ...labels };
}
