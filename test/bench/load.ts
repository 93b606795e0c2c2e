/** Usage: tsx load.ts ADDRESS PRINCIPALS SECONDS   Sends checks as fast as they are answered; prints how many. */

import { create, toBinary } from "@bufbuild/protobuf";
import { Client, credentials } from "@grpc/grpc-js";
import { createPki } from "../../scripts/pki.ts";
import { CheckRequestSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";

const CONNECTIONS = 2;
const UNDER_WAY = 32;
const CERTIFICATES = 10;

const [address = "", principals = "10", seconds = "1"] = process.argv.slice(2);
const messages = await makeMessages(Number(principals));
const asIs = (bytes: Buffer): Buffer => bytes;
const clients = Array.from(
  { length: CONNECTIONS },
  () => new Client(address, credentials.createInsecure(), { "grpc.use_local_subchannel_pool": 1 }),
);
const until = performance.now() + Number(seconds) * 1_000;
let sent = 0;
let failed = 0;

await Promise.all(
  Array.from({ length: UNDER_WAY }, async (_, lane) => {
    const client = clients[lane % CONNECTIONS]!;
    while (performance.now() < until) {
      const message = messages[sent++ % messages.length]!;
      await new Promise<void>((resolve) => {
        client.makeUnaryRequest("/envoy.service.auth.v3.Authorization/Check", asIs, asIs, message, (error: unknown) => {
          if (error !== null) failed++;
          resolve();
        });
      });
    }
  }),
);
console.log(JSON.stringify({ sent, failed }));
process.exit(0);

/** What Envoy sends for GETs over mTLS with a token that jwt_authn verified, as the shipped configurations have it. */
async function makeMessages(count: number): Promise<readonly Buffer[]> {
  const pki = await createPki();
  const issued = await Promise.all(
    Array.from({ length: Math.min(count, CERTIFICATES) }, (_, i) =>
      pki.issue({ spiffeId: `spiffe://shop.example/c${i}` }),
    ),
  );
  const text = (value: string): Uint8Array => new TextEncoder().encode(value);
  return Array.from({ length: Math.max(count, 1_000) }, (_, i) => {
    const who = i % count;
    const spiffeId = `spiffe://shop.example/ns/shop/sa/caller-${who}`;
    const path = ["/orders", `/orders/${i}`, "/stock", `/customers/${i}/orders`][i % 4]!;
    const headers = {
      ":authority": "orders.shop.example",
      ":method": "GET",
      ":path": path,
      ":scheme": "https",
      accept: "application/json",
      "user-agent": `caller-${who}/1.4.2 Go-http-client/2.0`,
      "x-forwarded-proto": "https",
      "x-request-id": `8ea377f1-5cb7-4b6e-b2ec-${String(i).padStart(12, "0")}`,
      "x-sallyport-ja3": "03117a8ed39ef02427ebbc39f121275c",
      "x-sallyport-ja4": "t13d1312h2_f57a46bbacb6_ab7e3b40a677",
      "x-sallyport-tls": "TLSv1.3/TLS_AES_128_GCM_SHA256",
      "x-sallyport-connection": String(who),
    };
    const expires = 4_000_000_000;
    return Buffer.from(
      toBinary(
        CheckRequestSchema,
        create(CheckRequestSchema, {
          attributes: {
            source: {
              principal: spiffeId,
              // One certificate for each caller would be the same work; its name is Envoy's word here.
              certificate: encodeURIComponent(issued[who % issued.length]!.certPem),
              address: {
                address: {
                  case: "socketAddress",
                  value: {
                    address: `10.1.${(who >> 8) & 255}.${who & 255}`,
                    portSpecifier: { case: "portValue", value: 40_000 },
                  },
                },
              },
            },
            request: {
              http: {
                method: "GET",
                path,
                host: "orders.shop.example",
                headerMap: { headers: Object.entries(headers).map(([key, value]) => ({ key, rawValue: text(value) })) },
              },
            },
            metadataContext: {
              filterMetadata: {
                "envoy.filters.http.jwt_authn": {
                  jwt: {
                    iss: "https://issuer.example",
                    sub: spiffeId,
                    jti: `token-${who}`,
                    iat: Math.floor(Date.now() / 1_000) - 60,
                    exp: expires,
                  },
                },
              },
            },
          },
        }),
      ),
    );
  });
}
