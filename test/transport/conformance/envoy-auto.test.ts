import { tryEnvoy } from "./envoy-cases.ts";
import { transports } from "./served.ts";

if ((await transports()).includes("auto")) tryEnvoy("auto");
