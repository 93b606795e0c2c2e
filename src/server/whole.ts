/** Starts and ends what is made of parts: the sidecar, the control plane, the webhook. */

/** Ends one part. */
export type Close = () => Promise<void> | void;

/** What runs, and where it listens. */
export interface Whole<Addresses> {
  readonly addresses: Addresses;
  /** Ends its parts, the last one first; once. */
  stop(): Promise<void>;
}

/**
 * @param closers how the parts end that are there already; `assemble` adds those of the parts it makes
 * @throws what `assemble` throws, once all parts that it had made have ended
 */
export async function startWhole<Addresses>(
  closers: Close[],
  assemble: (closers: Close[]) => Promise<Addresses>,
): Promise<Whole<Addresses>> {
  const stop = async (): Promise<void> => {
    for (const close of closers.splice(0).reverse()) await close();
  };
  try {
    return { addresses: await assemble(closers), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
