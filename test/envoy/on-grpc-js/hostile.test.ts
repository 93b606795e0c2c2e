/** The same through the library that serves checks where `ext-authz-transport` says so. */

process.env.SALLYPORT_EXT_AUTHZ_TRANSPORT = "grpc-js";
await import("../hostile.test.ts");
