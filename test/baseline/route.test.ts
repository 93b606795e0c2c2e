import fc from "fast-check";
import t from "tap";
import { RouteTemplates, shapeOf } from "../../src/baseline/route.ts";

const cases = [
  { path: "/orders/8231", want: "/orders/{id}" },
  { path: "/orders/8231/items", want: "/orders/{id}/items" },
  { path: "/v1/email/63282c8b-bd2e-4f65-a405-2c654a54f185/items", want: "/v1/email/{id}/items" },
  { path: "/feature.v1.FeatureService/UpdateFeature", want: "/feature.v1.FeatureService/UpdateFeature" },
  { path: "/api/v1beta1/pods", want: "/api/v1beta1/pods" },
  { path: "/reports/2026-03-04", want: "/reports/{id}" },
  { path: "/blobs/da39a3ee5e6b4b0d3255bfef95601890afd80709", want: "/blobs/{id}" },
  { path: "/oauth2/token", want: "/oauth2/token" },
  { path: "//double//slash/", want: "/double/slash" },
  { path: "", want: "/" },
  { path: "/", want: "/" },
  { path: "/a/b/c/d/e/f/g/h/i/j/k/l/m/n", want: "/a/b/c/d/e/f/g/h/i/j/k/l/{rest}" },
];
for (const { path, want } of cases) {
  t.test(`the shape of ${path || "an empty path"} is ${want}`, async (t) => {
    t.equal(shapeOf(path), want);
  });
}

t.test("a level with more names than the bound collapses to {id}", async (t) => {
  const templates = new RouteTemplates(3, 100);
  for (const name of ["ann", "bob", "cyd"]) templates.learn(`/users/${name}/mail`);
  t.equal(templates.template("/users/ann/mail"), "/users/ann/mail");
  templates.learn("/users/dee/mail");
  t.equal(templates.template("/users/ann/mail"), "/users/{id}/mail");
  t.equal(templates.template("/users/anyone/mail"), "/users/{id}/mail");
});

t.test("a path scan ends in a handful of templates", async (t) => {
  const templates = new RouteTemplates(8, 200);
  const seen = new Set<string>();
  fc.assert(
    fc.property(fc.array(fc.stringMatching(/^[a-z]{1,8}$/), { minLength: 1, maxLength: 3 }), (segments) => {
      templates.learn(`/${segments.join("/")}`);
    }),
    { numRuns: 500, seed: 7 },
  );
  for (let i = 0; i < 500; i++) seen.add(templates.template(`/scan${"x".repeat(i % 20)}/${i}`));
  t.same([...seen], ["/{id}/{id}"]);
});
