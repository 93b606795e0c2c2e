/** The one way to leave out a test, so that every skip is loud, counted, and can be forbidden. */

export interface SkipOptions {
  /** Whether a machine could have it installed. What nobody can install is skipped even where skips are forbidden. */
  readonly obtainable?: boolean;
}

/**
 * Options for a test that needs something which this machine may lack.
 * @param why what is missing, and how to get it
 * @throws {Error} when it is missing and `SALLYPORT_FORBID_SKIPS=1`, as CI sets it
 */
export function skipUnless(
  available: boolean,
  why: string,
  { obtainable = true }: SkipOptions = {},
): { readonly skip?: string } {
  if (available) return {};
  if (obtainable && process.env.SALLYPORT_FORBID_SKIPS === "1") {
    throw new Error(`SALLYPORT_FORBID_SKIPS is set, but this is missing: ${why}`);
  }
  return { skip: why };
}
