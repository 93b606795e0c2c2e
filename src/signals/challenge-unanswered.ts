/** Reads what became of the session's challenges: each one failed or ignored is evidence. */

import { HOUR_MS } from "../model/units.ts";
import { NOTHING, present, type Signal } from "./signal.ts";

/** An honest client that is challenged answers at its next request far more often than not: one in a thousand fails. */
const FAILED_BITS = 7;
/** Going on after that. */
const PERSISTED_BITS = 3;

export const challengeUnanswered: Signal = {
  name: "challenge.unanswered",
  summary: "Challenges of this session that were failed or ignored; each further attempt adds to it.",
  gathering: "now",
  halfLifeMs: HOUR_MS,
  capBits: 24,
  discharged: false,
  read: ({ session }) => {
    if (session.standing.tries === 0) return NOTHING;
    return present(
      FAILED_BITS + PERSISTED_BITS * (session.standing.tries - 1),
      `${session.standing.tries} ${session.standing.tries === 1 ? "challenge" : "challenges"} unanswered`,
      "an answer",
    );
  },
};
