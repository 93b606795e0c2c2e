/** Tokens' cryptography, loaded with the first token: most sidecars are shown none that they could verify. */

let loading: Promise<typeof import("jose")> | undefined;

export function loadJose(): Promise<typeof import("jose")> {
  loading ??= import("jose");
  return loading;
}
