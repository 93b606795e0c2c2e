/** What HTTP clients of the benchmark send: with a token and forwarded facts, so that a check is about as large as with mTLS. */

import { callerOf, DESTINATION, JA4, pathOf } from "./callers.ts";

const ROUTES = 1_000;
const TOKEN_BYTES = 700;

/** Lines of the heads of GETs; they have no body. */
export const REQUESTS: readonly (readonly string[])[] = Array.from({ length: ROUTES }, (_, i) => {
  const { spiffeId, agent } = callerOf(0);
  return [
    `GET ${pathOf(i)} HTTP/1.1`,
    `host: ${DESTINATION}`,
    "accept: application/json",
    `user-agent: ${agent}`,
    `authorization: Bearer ${"eyJhbGciOiJFUzI1NiIsImtpZCI6ImJlbmNoIn0.".padEnd(TOKEN_BYTES, "q")}`,
    `x-forwarded-client-cert: By=spiffe://shop.example/orders;Hash=${"0".repeat(64)};URI=${spiffeId}`,
    "x-sallyport-ja3: 03117a8ed39ef02427ebbc39f121275c",
    `x-sallyport-ja4: ${JA4}`,
    "x-sallyport-tls: TLSv1.3/TLS_AES_128_GCM_SHA256",
    "x-sallyport-connection: 1",
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
  ];
});
