import fc from "fast-check";
import t from "tap";
import { type Aged, AgeList } from "../../src/baseline/age-list.ts";

interface Entry extends Aged<Entry> {
  readonly name: number;
}

t.test("an age list keeps the order that a map keeps when entries are deleted and set again", async () => {
  const steps = fc.array(fc.tuple(fc.constantFrom("use", "remove", "forget"), fc.nat(6)), { maxLength: 60 });
  fc.assert(
    fc.property(steps, (taken) => {
      const map = new Map<number, Entry>();
      const list = new AgeList<Entry>();
      for (const [step, name] of taken) {
        const known = map.get(name);
        if (step === "use") {
          const entry: Entry = known ?? { name, older: undefined, newer: undefined };
          if (known === undefined) list.add(entry);
          else list.renew(entry);
          map.delete(name);
          map.set(name, entry);
        } else {
          const entry = step === "remove" ? known : list.oldest;
          if (entry === undefined) continue;
          list.remove(entry);
          map.delete(entry.name);
        }
      }
      const names = [...list].map((entry) => entry.name);
      return list.size === map.size && list.oldest?.name === names[0] && names.join() === [...map.keys()].join();
    }),
  );
});
