/** Work in small steps: whoever runs it decides how many to take before letting others have their turn. */

/** Stops after every small step; its result comes at the end. */
export type Steps<Result> = Generator<void, Result>;

/** Entries that are one step together. */
const STEP_ENTRIES = 16;

/** Maps a list, some entries at a time. */
export function* sliced<Entry, Result>(
  entries: Iterable<Entry>,
  map: (entry: Entry) => Result,
): Steps<readonly Result[]> {
  const results: Result[] = [];
  for (const entry of entries) {
    results.push(map(entry));
    if (results.length % STEP_ENTRIES === 0) yield;
  }
  return results;
}

/** Takes all steps at once. */
export function finish<Result>(steps: Steps<Result>): Result {
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
  }
}
