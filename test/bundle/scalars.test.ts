/** Tests how durations and moments are read. */

import t from "tap";
import { parseDuration, parseMoment } from "../../src/bundle/scalars.ts";

const durations = [
  { text: "30s", want: 30_000 },
  { text: "5m", want: 300_000 },
  { text: "12h", want: 43_200_000 },
  { text: "7d", want: 604_800_000 },
  { text: "250ms", want: 250 },
  { text: "1.5h", want: 5_400_000 },
  { text: "1h30m", want: 5_400_000 },
  { text: "0s", want: 0 },
  { text: "", want: undefined },
  { text: "30", want: undefined },
  { text: "-5m", want: undefined },
  { text: "5 m", want: undefined },
  { text: "5min", want: undefined },
  { text: "1w", want: undefined },
  { text: ".5h", want: undefined },
  { text: "1e3s", want: undefined },
  { text: `${"9".repeat(13)}s`, want: undefined },
];
for (const { text, want } of durations) {
  t.test(`"${text}" is ${want === undefined ? "no duration" : `${want} ms`}`, async (t) => {
    t.equal(parseDuration(text), want);
  });
}

const moments = [
  { text: "2030-01-31T12:00:00Z", want: 1_896_091_200_000 },
  { text: "2030-01-31t12:00:00.250z", want: 1_896_091_200_250 },
  { text: "2030-01-31 13:00:00+01:00", want: 1_896_091_200_000 },
  { text: "2028-02-29T00:00:00Z", want: 1_835_395_200_000 },
  { text: "2030-02-29T00:00:00Z", want: undefined },
  { text: "2030-02-30T00:00:00Z", want: undefined },
  { text: "2030-13-01T00:00:00Z", want: undefined },
  { text: "2030-01-31T24:00:00Z", want: undefined },
  { text: "2030-01-31T12:60:00Z", want: undefined },
  { text: "2030-01-31T12:00:00", want: undefined },
  { text: "2030-01-31", want: undefined },
  { text: "tomorrow", want: undefined },
];
for (const { text, want } of moments) {
  t.test(`"${text}" is ${want === undefined ? "no moment" : want}`, async (t) => {
    t.equal(parseMoment(text), want);
  });
}
