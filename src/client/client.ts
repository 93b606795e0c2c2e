/** `sallyport/client`: helps callers answer challenges by themselves, over `fetch` and grpc-js. */

export type { CallerOptions, TokenWanted } from "./caller.ts";
export { type FetchOptions, sallyportFetch } from "./fetch.ts";
export { type InterceptorSettings, sallyportInterceptor } from "./grpc.ts";
export { type CallerKey, type NamedSigner, type Signer, signerOf, signerOfPair } from "./keys.ts";
