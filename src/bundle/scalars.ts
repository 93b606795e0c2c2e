/** Texts with a form of their own: durations and moments. */

export const DURATION_EXPECTED = "a duration such as 30s, 5m, 12h or 7d";
export const MOMENT_EXPECTED = "a time such as 2030-01-31T12:00:00Z";

/** What they look like; a moment must be a day that there is, besides. */
export const DURATION_PATTERN = /^(?:\d{1,12}(?:\.\d{1,6})?(?:ms|[smhd])){1,5}$/;
export const MOMENT_PATTERN = /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)$/;

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Milliseconds of `30s`, `1.5h`, `7d` or `1h30m`; `undefined` for any other text. */
export function parseDuration(text: string): number | undefined {
  if (!DURATION_PATTERN.test(text)) return undefined;
  let total = 0;
  for (const [, amount, unit] of text.matchAll(/([\d.]+)(ms|[smhd])/g)) total += Number(amount) * UNIT_MS[unit!]!;
  return Math.round(total);
}

/** Milliseconds since the epoch of an RFC 3339 text; `undefined` for any other text and for days that there are not. */
export function parseMoment(text: string): number | undefined {
  const match = MOMENT_PATTERN.exec(text);
  if (match === null) return undefined;
  const [year, month, day, hour] = match.slice(1).map(Number);
  if (day! > new Date(Date.UTC(year!, month!, 0)).getUTCDate() || hour! > 23) return undefined;
  const ms = Date.parse(text.replace(" ", "T").toUpperCase());
  return Number.isNaN(ms) ? undefined : ms;
}
