// Keeps the page for use without a network. Small files come from the network if there is one, so that a page that was
// written again is seen at once; the model and the runtime, whose addresses name their content, come from the cache.
// It also isolates the page from other origins where the host does not, which WebAssembly needs for threads.

const CACHE = "gsd-explorer";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

const lasting = (url) => url.searchParams.has("v");

function isolate(response) {
  if (response.status === 0 || response.status === 304) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

async function answer(request) {
  const url = new URL(request.url);
  const cache = await caches.open(CACHE);
  const kept = () => cache.match(request, { ignoreSearch: !lasting(url) });
  if (lasting(url)) {
    const found = await kept();
    if (found) return isolate(found);
  }
  try {
    const response = await fetch(request);
    if (response.ok && !lasting(url)) await cache.put(url.origin + url.pathname, response.clone());
    return isolate(response);
  } catch (error) {
    const found = await kept();
    if (found) return isolate(found);
    throw error;
  }
}

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method === "GET" && url.href.startsWith(self.registration.scope)) event.respondWith(answer(event.request));
});

self.addEventListener("message", (event) => {
  if (event.data.kind !== "keep") return;
  const keep = async () => {
    const cache = await caches.open(CACHE);
    const wanted = event.data.files.map((file) => new URL(file, self.registration.scope).href);
    for (const request of await cache.keys()) {
      if (request.url.startsWith(self.registration.scope) && !wanted.includes(request.url)) await cache.delete(request);
    }
    for (const url of wanted) {
      if (!lasting(new URL(url)) || !(await cache.match(url))) await cache.add(url);
    }
  };
  event.waitUntil(
    keep().then(
      () => event.ports[0].postMessage({ kept: true }),
      () => event.ports[0].postMessage({ kept: false }),
    ),
  );
});
