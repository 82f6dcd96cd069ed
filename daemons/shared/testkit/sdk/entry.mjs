// What users of the npm package bundle: the whole SDK as one module.
export * from 'wukongimjssdk/lib/sdk'
