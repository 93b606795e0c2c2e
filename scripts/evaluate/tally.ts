/** Counts what decisions did to labelled rows: false positives, recall per attack, calibration, bootstrap intervals. */

/** Labels of a row; the engine never sees them. */
export interface Labels {
  readonly principal: string;
  readonly credential: string | null;
  readonly label: "benign" | "attack" | "unlabelled";
  readonly attack: string | null;
  readonly episode: string | null;
  readonly phase: "warmup" | "test";
}

export interface Judged {
  readonly score: number;
  /** 0 allow, 1 challenge, 2 deny, 3 terminate. */
  readonly rank: number;
}

export interface Episode {
  readonly attack: string;
  readonly principal: string;
  readonly scores: number[];
  /** Number of the thief's first request that was challenged or worse, denied or worse; infinite when none was. */
  challengedAt: number;
  deniedAt: number;
}

interface Benign {
  requests: number;
  challenged: number;
  denied: number;
}

/** One set of rows; files of a series are pooled in it. */
export class Tally {
  files = 0;
  rows = 0;
  /** Victims' rows on a credential that a thief has used: blocking them is right, so they are counted apart. */
  readonly collateral = { requests: 0, blocked: 0 };
  readonly benign = new Map<string, Benign>();
  readonly benignScores: number[] = [];
  readonly episodes = new Map<string, Episode>();
  private dirty = new Set<string>();
  private file = "";

  begin(file: string): void {
    this.files++;
    this.file = file;
    this.dirty = new Set();
  }

  add(row: Labels, { score, rank }: Judged): void {
    this.rows++;
    const use = `${row.principal}|${row.credential}`;
    if (row.label === "attack") {
      this.dirty.add(use);
      if (row.phase === "test") this.addAttack(row, score, rank);
    } else if (row.label === "benign" && row.phase === "test") {
      if (this.dirty.has(use)) {
        this.collateral.requests++;
        if (rank >= 1) this.collateral.blocked++;
        return;
      }
      const own = this.benign.get(row.principal) ?? { requests: 0, challenged: 0, denied: 0 };
      this.benign.set(row.principal, own);
      own.requests++;
      if (rank >= 1) own.challenged++;
      if (rank >= 2) own.denied++;
      this.benignScores.push(score);
    }
  }

  private addAttack(row: Labels, score: number, rank: number): void {
    const key = `${this.file}|${row.episode}`;
    let episode = this.episodes.get(key);
    if (episode === undefined) {
      const { attack, principal } = row;
      episode = {
        attack: attack ?? "attack",
        principal,
        scores: [],
        challengedAt: Number.POSITIVE_INFINITY,
        deniedAt: Number.POSITIVE_INFINITY,
      };
      this.episodes.set(key, episode);
    }
    episode.scores.push(score);
    if (rank >= 1) episode.challengedAt = Math.min(episode.challengedAt, episode.scores.length);
    if (rank >= 2) episode.deniedAt = Math.min(episode.deniedAt, episode.scores.length);
  }
}

export interface Recall {
  readonly attack: string;
  readonly episodes: number;
  /** Shares of episodes caught within the first 1, 5, 20 requests. */
  readonly challenged: readonly [number, number, number];
  readonly denied: readonly [number, number, number];
  /** Requests until the median episode was challenged; infinite when it never was. */
  readonly medianChallenged: number;
}

export interface Report {
  readonly files: number;
  readonly rows: number;
  readonly benignRequests: number;
  readonly principals: number;
  /** Shares of benign test requests. */
  readonly challenged: number;
  readonly denied: number;
  readonly challengedInterval: readonly [number, number];
  /** Shares of principals ever hit. */
  readonly principalsChallenged: number;
  readonly principalsDenied: number;
  readonly collateral: number;
  readonly collateralBlocked: number;
  readonly recall: readonly Recall[];
  readonly sweep: readonly { readonly rate: number; readonly threshold: number; readonly recall: readonly Recall[] }[];
  readonly bands: readonly Band[];
}

/** How often honest requests reach a score, beside what the score promises. */
export interface Band {
  readonly score: number;
  readonly promised: number;
  readonly observed: number;
  readonly count: number;
  /** Whether at least twenty such scores were to be expected, so that the comparison means something. */
  readonly telling: boolean;
}

const WITHIN = [1, 5, 20] as const;
const SWEEP = [0.001, 0.01];
const BANDS = [10, 15, 20, 26, 30.1, 40];

export function report(tally: Tally, resamples: number): Report {
  const benign = [...tally.benign.values()];
  const requests = sum(benign.map((own) => own.requests));
  const episodes = [...tally.episodes.values()];
  return {
    files: tally.files,
    rows: tally.rows,
    benignRequests: requests,
    principals: benign.length,
    challenged: sum(benign.map((own) => own.challenged)) / requests,
    denied: sum(benign.map((own) => own.denied)) / requests,
    challengedInterval: interval(benign, resamples),
    principalsChallenged: benign.filter((own) => own.challenged > 0).length / benign.length,
    principalsDenied: benign.filter((own) => own.denied > 0).length / benign.length,
    collateral: tally.collateral.requests,
    collateralBlocked: tally.collateral.blocked / tally.collateral.requests,
    recall: recallOf(episodes, (episode) => [episode.challengedAt, episode.deniedAt]),
    sweep: SWEEP.map((rate) => {
      const threshold = thresholdFor(tally.benignScores, rate);
      const first = (episode: Episode): number => {
        const at = episode.scores.findIndex((score) => score >= threshold);
        return at < 0 ? Number.POSITIVE_INFINITY : at + 1;
      };
      return { rate, threshold, recall: recallOf(episodes, (episode) => [first(episode), Number.POSITIVE_INFINITY]) };
    }),
    bands: BANDS.map((score) => {
      const count = tally.benignScores.filter((one) => one >= score).length;
      const promised = 10 ** (-Math.floor(score) / 10);
      return {
        score: Math.floor(score),
        promised,
        observed: count / requests,
        count,
        telling: promised * requests >= 20,
      };
    }),
  };
}

/** All episodes together first, then by attack. */
function recallOf(
  episodes: readonly Episode[],
  caught: (episode: Episode) => readonly [challenged: number, denied: number],
): readonly Recall[] {
  const kinds = [...new Set(episodes.map(({ attack }) => attack))].sort();
  const groups: [string, readonly Episode[]][] = [
    ["all", episodes],
    ...kinds.map((kind): [string, readonly Episode[]] => [kind, episodes.filter(({ attack }) => attack === kind)]),
  ];
  return groups
    .filter(([, group]) => group.length > 0)
    .map(([attack, group]) => {
      const times = group.map(caught);
      const within = (which: 0 | 1) =>
        WITHIN.map((most) => times.filter((time) => time[which] <= most).length / group.length) as unknown as readonly [
          number,
          number,
          number,
        ];
      const sorted = times.map(([challenged]) => challenged).sort((a, b) => a - b);
      return {
        attack,
        episodes: group.length,
        challenged: within(0),
        denied: within(1),
        medianChallenged: sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.POSITIVE_INFINITY,
      };
    });
}

/** The lowest threshold that at most `rate` of the benign scores reach. */
function thresholdFor(scores: readonly number[], rate: number): number {
  const sorted = [...scores].sort((a, b) => a - b);
  const allowed = Math.floor(rate * sorted.length + 1e-9);
  return (sorted[sorted.length - 1 - allowed] ?? 0) + 1e-9;
}

/** 90 % interval of the challenge rate, resampling principals: their requests are not independent. */
function interval(benign: readonly Benign[], resamples: number): readonly [number, number] {
  const random = mulberry32(1);
  const rates: number[] = [];
  for (let i = 0; i < resamples && benign.length > 1; i++) {
    let requests = 0;
    let challenged = 0;
    for (let k = 0; k < benign.length; k++) {
      const own = benign[Math.floor(random() * benign.length)] as Benign;
      requests += own.requests;
      challenged += own.challenged;
    }
    rates.push(challenged / requests);
  }
  rates.sort((a, b) => a - b);
  const at = (share: number): number => rates[Math.floor(share * (rates.length - 1))] ?? Number.NaN;
  return [at(0.05), at(0.95)];
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** A small generator with a seed (Tommy Ettinger's mulberry32, public domain). */
export function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
