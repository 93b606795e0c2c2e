import fc from "fast-check";
import t from "tap";
import { believeXfcc, certificateFromXfcc, parseXfcc } from "../../src/identity/xfcc.ts";

const HASH = "a".repeat(64);
const OTHER = "b".repeat(64);
const hops = [/^spiffe:\/\/td\/gateway$/];

function elementsOf(header: string) {
  const parsed = parseXfcc(header);
  if (!parsed.ok) throw new Error(parsed.why);
  return parsed.elements;
}

t.test("one element is read with quoted subject, escapes and several names", async (t) => {
  const header = `By=spiffe://td/api;Hash=${HASH.toUpperCase()};Subject="CN=pay\\"ments,O=x;y";URI=spiffe://td/pay;DNS=a.b;DNS=c`;
  t.same(elementsOf(header), [
    {
      by: ["spiffe://td/api"],
      hash: HASH,
      subject: 'CN=pay"ments,O=x;y',
      uris: ["spiffe://td/pay"],
      dns: ["a.b", "c"],
      cert: undefined,
    },
  ]);
});

t.test("elements are divided at commas outside quotes only", async (t) => {
  t.equal(elementsOf(`Hash=${HASH};Subject="CN=a,O=b",Hash=${OTHER}`).length, 2);
});

const refused = [
  { header: `Hash=${HASH};Subject="open`, why: "has an unclosed quote" },
  { header: 'Hash="open', why: "has an unclosed quote" },
  { header: "", why: "has an empty element" },
  { header: "Hash", why: "has a field without =" },
  { header: Array(33).fill("Hash=a").join(","), why: "has more than 32 elements" },
  { header: "x".repeat(65_537), why: "longer than 65536 characters" },
];
for (const { header, why } of refused) {
  t.test(`a header that ${why} is refused: ${JSON.stringify(header.slice(0, 30))}`, async (t) => {
    t.same(parseXfcc(header), { ok: false, why });
  });
}

t.test("nobody is believed when the direct peer is not a listed hop", async (t) => {
  const elements = elementsOf(`Hash=${HASH};URI=spiffe://td/pay`);
  t.equal(believeXfcc(elements, "spiffe://td/stranger", hops), undefined);
  t.equal(believeXfcc(elements, undefined, hops), undefined);
  t.equal(believeXfcc(elements, "spiffe://td/gateway", []), undefined);
});

t.test("behind a listed hop the nearest element that is no hop itself is the caller", async (t) => {
  const forged = `Hash=${OTHER};URI=spiffe://td/admin`;
  const real = `Hash=${HASH};URI=spiffe://td/pay`;
  const hop = `Hash=${OTHER};URI=spiffe://td/gateway`;
  const believed = believeXfcc(elementsOf(`${forged},${real},${hop}`), "spiffe://td/gateway", hops);
  t.same(believed?.uris, ["spiffe://td/pay"], "an element that the caller itself sent is further out and is ignored");
});

t.test("a certificate without a SHA-256, or with several URIs, names nobody", async (t) => {
  const [without] = elementsOf("URI=spiffe://td/pay");
  const [several] = elementsOf(`Hash=${HASH};URI=spiffe://td/pay;URI=spiffe://td/other`);
  const [plain] = elementsOf(`Hash=${HASH};URI=spiffe://td/pay`);
  t.equal(certificateFromXfcc(without!), undefined);
  t.equal(certificateFromXfcc(several!)?.spiffeId, undefined);
  t.match(certificateFromXfcc(plain!), { via: "xfcc", sha256: HASH, spiffeId: "spiffe://td/pay" });
});

t.test("a hash that is not the enclosed certificate's is not believed", async (t) => {
  const [element] = elementsOf(`Hash=${HASH};Cert="not a certificate"`);
  t.equal(certificateFromXfcc(element!), undefined);
});

t.test("no text makes it throw", async () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      const parsed = parseXfcc(text);
      if (parsed.ok) for (const element of parsed.elements) certificateFromXfcc(element);
      return true;
    }),
  );
});
