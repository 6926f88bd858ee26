// The replicas under test, and a fetch that tells the simulator behind them what to answer.

export const [url, otherUrl] = JSON.parse(process.env.PIROPIRO_URLS);

// Adds the next of `scripts` to each request that generates, and the last one again when there are no more. The SDKs
// cannot send such parameters in every place, and know nothing of it.
export function scripted(...scripts) {
  const left = [...scripts];
  return async (address, options) => {
    const path = new URL(address).pathname;
    if (options?.method !== "POST" || !/\/(completions|responses)$/.test(path)) return fetch(address, options);
    const script = { ttft: 0, interval: 0, ...(left.length > 1 ? left.shift() : left[0]) };
    const added = path.endsWith("responses") ? { upstream: { simulator: script } } : { simulator: script };
    return fetch(address, { ...options, body: JSON.stringify({ ...JSON.parse(options.body), ...added }) });
  };
}

export const numbered = (count) => Array.from({ length: count }, (_, number) => `${number} `);

export async function collect(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}
