/** Ordinary Check calls of the conformance tests. */

import { checkBytes, checkOnce } from "../../support/check-client.ts";

/** Whether an ordinary request on a connection of its own gets a verdict, whichever it is. */
export async function isServed(address: string): Promise<boolean> {
  return typeof (await checkOnce(address, checkBytes())) !== "number";
}
