/** The callers of the benchmark: what each is called, where it calls from, what it asks for. */

/** Digits, so that every name is as long as every other. */
const DIGITS = 5;
const ROUTES = 4;

export interface BenchCaller {
  readonly spiffeId: string;
  readonly address: string;
  readonly agent: string;
}

export const DESTINATION = "orders.shop.example";
export const JA4 = "t13d1312h2_f57a46bbacb6_ab7e3b40a677";

/** @param who 0..99,999 */
export function callerOf(who: number): BenchCaller {
  return {
    spiffeId: `spiffe://shop.example/ns/shop/sa/${nameOf(who)}`,
    address: `10.${(who >> 16) & 255}.${(who >> 8) & 255}.${who & 255}`,
    agent: `${nameOf(who)}/1.4.2 Go-http-client/2.0`,
  };
}

export function nameOf(who: number): string {
  return `caller-${String(who).padStart(DIGITS, "0")}`;
}

/** Path of a caller's request: four routes in turn, two of them with an id that differs every time. */
export function pathOf(request: number): string {
  const id = 1_000 + (request % 9_000);
  return ["/orders", `/orders/${id}`, "/stock", `/customers/${id}/orders`][request % ROUTES] as string;
}
